// Sixteen float lanes in the compiler's own vector extension: one AVX-512 register, two AVX2 ones, four NEON ones.
//
// Everything that adds up floats does so lane by lane and then through sum_lanes(), so a result never depends on
// how many rows, requests or draft tokens were computed beside it.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// Sixteen sums stay in registers only if the compiler does not make a call of it.
#define TURBOSPEC_INLINE inline __attribute__((always_inline))

namespace turbospec {

typedef float V16 __attribute__((vector_size(64)));
typedef std::uint32_t U16 __attribute__((vector_size(64)));
typedef std::int32_t I16 __attribute__((vector_size(64)));
typedef std::uint16_t H16 __attribute__((vector_size(32)));

constexpr std::int64_t kLanes = 16;

template <typename To, typename From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename Vector, typename Element>
inline Vector load_raw(const Element* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline V16 splat(float x) { return V16{} + x; }

inline V16 load(const float* from) { return load_raw<V16>(from); }

inline V16 load(const c10::BFloat16* from) {
  return bits<V16>(__builtin_convertvector(load_raw<H16>(from), U16) << 16);
}

inline void store(float* to, V16 v) { std::memcpy(to, &v, sizeof(v)); }

// Round to nearest, ties to even; a NaN keeps its quiet bit.
inline void store(c10::BFloat16* to, V16 v) {
  const U16 raw = bits<U16>(v);
  const U16 rounded = (raw + (0x7fffu + ((raw >> 16) & 1u))) >> 16;
  const U16 nan = (raw >> 16) | 0x40u;
  const H16 half = __builtin_convertvector(v == v ? rounded : nan, H16);
  std::memcpy(to, &half, sizeof(half));
}

inline V16 max(V16 a, V16 b) { return a > b ? a : b; }

inline float max_lane(V16 v) {
  float best = v[0];
  for (int lane = 1; lane < kLanes; ++lane) best = best < v[lane] ? v[lane] : best;
  return best;
}

// exp(x) to about 2 units in the last place: x = n ln2 + r, |r| <= ln2 / 2, Taylor series of degree 7 in r.
// Inputs below -87.3 give 0 (a masked score is -inf), inputs above 88 saturate.
inline V16 exp(V16 x) {
  const V16 low = splat(-87.33654f), high = splat(88.0f);
  const V16 clamped = x < low ? low : (x > high ? high : x);
  const V16 shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const V16 n = (clamped * splat(1.44269504f) + shifter) - shifter;
  const V16 r = (clamped - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
  V16 p = splat(1.0f / 5040.0f);
  p = p * r + splat(1.0f / 720.0f);
  p = p * r + splat(1.0f / 120.0f);
  p = p * r + splat(1.0f / 24.0f);
  p = p * r + splat(1.0f / 6.0f);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  const I16 exponent = __builtin_convertvector(n, I16) + 127;
  const V16 result = p * bits<V16>(exponent << 23);
  return x < low ? V16{} : result;
}

// Lane i of the answer is the sum of the sixteen lanes of a[i], always added in the same tree.
TURBOSPEC_INLINE V16 sum_lanes(const V16* a) {
  const I16 near8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
  const I16 near4 = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
  const I16 near2 = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
  const I16 near1 = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
  V16 b[8], c[4], d[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    b[i] = __builtin_shuffle(a[2 * i], a[2 * i + 1], near8) + __builtin_shuffle(a[2 * i], a[2 * i + 1], near8 + 8);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    c[i] = __builtin_shuffle(b[2 * i], b[2 * i + 1], near4) + __builtin_shuffle(b[2 * i], b[2 * i + 1], near4 + 4);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    d[i] = __builtin_shuffle(c[2 * i], c[2 * i + 1], near2) + __builtin_shuffle(c[2 * i], c[2 * i + 1], near2 + 2);
  return __builtin_shuffle(d[0], d[1], near1) + __builtin_shuffle(d[0], d[1], near1 + 1);
}

inline float sum_lane(V16 v) {
  const I16 by8 = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
  const I16 by4 = {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11};
  const I16 by2 = {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13};
  v = v + __builtin_shuffle(v, by8);
  v = v + __builtin_shuffle(v, by4);
  v = v + __builtin_shuffle(v, by2);
  return v[0] + v[1];
}

// The products of one step of a dot product, added to `sum`. kStep elements of each row are consumed.
template <typename T>
struct Dot;

template <>
struct Dot<float> {
  static constexpr std::int64_t kStep = 16;
  typedef V16 Raw;
  static V16 add(V16 sum, Raw a, Raw b) { return sum + a * b; }
};

template <>
struct Dot<c10::BFloat16> {
  static constexpr std::int64_t kStep = 32;
  typedef U16 Raw;
  static V16 add(V16 sum, Raw a, Raw b) {
#if defined(__AVX512BF16__)
    return bits<V16>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
#else
    sum = sum + bits<V16>(a << 16) * bits<V16>(b << 16);
    return sum + bits<V16>(a & 0xffff0000u) * bits<V16>(b & 0xffff0000u);
#endif
  }
};

// Sixteen dot products at once: kRows rows of `a` against 16 / kRows rows of `b`, all `length` long (a multiple of
// Dot<T>::kStep). Lane i * (16 / kRows) + j of the answer is a[i] . b[j]. With kAheadBytes, what lies that far behind
// each element of `b` is fetched meanwhile: the processor does not see through many short rows read side by side.
template <typename T, int kRows, int kAheadBytes = 0, typename RowsA, typename RowsB>
TURBOSPEC_INLINE V16 dot_tile(RowsA a, RowsB b, std::int64_t length) {
  typedef Dot<T> D;
  constexpr int kColumns = kLanes / kRows;
  V16 sums[kLanes] = {};
  for (std::int64_t k = 0; k < length; k += D::kStep) {
    typename D::Raw x[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) x[i] = load_raw<typename D::Raw>(a(i) + k);
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      const auto y = load_raw<typename D::Raw>(b(j) + k);
      if constexpr (kAheadBytes > 0) __builtin_prefetch(reinterpret_cast<const char*>(b(j) + k) + kAheadBytes, 0, 2);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) sums[i * kColumns + j] = D::add(sums[i * kColumns + j], x[i], y);
    }
  }
  return sum_lanes(sums);
}

}  // namespace turbospec
