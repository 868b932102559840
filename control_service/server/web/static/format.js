// Numbers, times and shell words as text. Whatever is not known yet is a dash.

const UNKNOWN = "–";
const LOCALE = "en";

const CLOCK = new Intl.DateTimeFormat(LOCALE, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const CLOCK_MINUTES = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const WHOLE = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const THREE_DIGITS = new Intl.NumberFormat(LOCALE, { maximumSignificantDigits: 3 });

export function number(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return (Math.abs(value) >= 100 ? WHOLE : THREE_DIGITS).format(value);
}

// The space before the sign does not break.
export function percent(ratio, digits = 0) {
  return ratio === null || ratio === undefined ? UNKNOWN : `${(ratio * 100).toFixed(digits)}\u00a0%`;
}

export function signedPercent(ratio) {
  return `${ratio < 0 ? "−" : "+"}${percent(Math.abs(ratio), 1)}`;
}

export function withError(value, error) {
  return value === null ? UNKNOWN : `${number(value)} ± ${number(error)}`;
}

export function clock(unixSeconds, withSeconds = true) {
  if (unixSeconds === null || unixSeconds === undefined) return UNKNOWN;
  return (withSeconds ? CLOCK : CLOCK_MINUTES).format(new Date(unixSeconds * 1000));
}

// `{lease: 90, fallback: 10}` as "lease 90, fallback 10".
export function counts(byName) {
  const parts = Object.entries(byName)
    .sort(([, one], [, other]) => other - one)
    .map(([name, count]) => `${name.replaceAll("_", " ")} ${number(count)}`);
  return parts.join(", ") || UNKNOWN;
}

export function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

// One word for a POSIX shell.
export function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
