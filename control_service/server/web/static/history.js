// The seconds of one engine as this page has them: the service sends only those it lacks.

const KEPT_S = 900;

export class History {
  #rows = new Map();
  #newestS = 0;

  // What to ask for: the newest second may have been sent before it was over.
  get sinceS() {
    return this.#newestS;
  }

  add(columns, nowS) {
    const names = Object.keys(columns);
    columns.time_s.forEach((timeS, place) => {
      this.#rows.set(timeS, Object.fromEntries(names.map((name) => [name, columns[name][place]])));
      this.#newestS = Math.max(this.#newestS, timeS);
    });
    for (const timeS of this.#rows.keys()) {
      if (timeS < nowS - KEPT_S) this.#rows.delete(timeS);
    }
  }

  // The row of one second, if a step ran in it.
  at(timeS) {
    return this.#rows.get(timeS);
  }

  // Rows from `fromS` on, oldest first.
  rows(fromS) {
    return [...this.#rows.values()].filter((row) => row.time_s >= fromS).sort((a, b) => a.time_s - b.time_s);
  }

  // [times, ...columns]: every second from `fromS` to `toS`; null where no step ran. A second's
  // values also stand at its end if none follows, so that a lone second can be seen.
  dense(names, fromS, toS) {
    const times = [];
    const columns = names.map(() => []);
    for (let timeS = Math.floor(fromS); timeS <= Math.ceil(toS); timeS += 1) {
      times.push(timeS);
      const row = this.#rows.get(timeS) ?? this.#rows.get(timeS - 1);
      names.forEach((name, place) => columns[place].push(row?.[name] ?? null));
    }
    return [times, ...columns];
  }
}
