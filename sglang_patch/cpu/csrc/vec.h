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

// What one register holds. GCC keeps a vector that is wider in memory, even a sum in the innermost loop, so what has to
// be fast is written in these: the same lanes in the same order, so the same bits.
#if defined(__AVX512F__)
constexpr int kRegisterLanes = 16, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kRegisterLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kRegisterLanes = 4, kRegisters = 32;
#else
constexpr int kRegisterLanes = 4, kRegisters = 16;
#endif
constexpr int kParts = kLanes / kRegisterLanes;
typedef float VR __attribute__((vector_size(4 * kRegisterLanes)));
typedef std::uint32_t UR __attribute__((vector_size(4 * kRegisterLanes)));
typedef std::int32_t IR __attribute__((vector_size(4 * kRegisterLanes)));

template <typename To, typename From>
TURBOSPEC_INLINE To bits(const From& from) {
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
TURBOSPEC_INLINE VR exp(VR x) {
  const VR zero = {}, low = zero - 87.33654f, high = zero + 88.0f;
  const VR clamped = x < low ? low : (x > high ? high : x);
  const VR shifter = zero + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const VR n = (clamped * 1.44269504f + shifter) - shifter;
  const VR r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  VR p = zero + 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IR exponent = __builtin_convertvector(n, IR) + 127;
  const VR result = p * bits<VR>(exponent << 23);
  return x < low ? zero : result;
}

#if !defined(__AVX512F__)  // where V16 is VR
inline V16 exp(V16 x) {
  VR parts[kParts];
  std::memcpy(parts, &x, sizeof(x));
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) parts[i] = exp(parts[i]);
  return bits<V16>(parts);
}
#endif

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

// One register of products of a dot product, added to `sum`. kStep elements of each row fill sixteen lanes.
template <typename T>
struct Dot;

template <>
struct Dot<float> {
  static constexpr std::int64_t kStep = 16;
  typedef VR Raw;
  static TURBOSPEC_INLINE VR add(VR sum, Raw a, Raw b) { return sum + a * b; }
};

template <>
struct Dot<c10::BFloat16> {
  static constexpr std::int64_t kStep = 32;
  typedef UR Raw;
  static TURBOSPEC_INLINE VR add(VR sum, Raw a, Raw b) {
#if defined(__AVX512BF16__)
    return bits<VR>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
#else
    sum = sum + bits<VR>(a << 16) * bits<VR>(b << 16);
    return sum + bits<VR>(a & 0xffff0000u) * bits<VR>(b & 0xffff0000u);
#endif
  }
};

// Sixteen dot products: kRows rows of `a` against 16 / kRows rows of `b`, all `length` long (a multiple of
// Dot<T>::kStep). Lane i * (16 / kRows) + j of the answer is a[i] . b[j]. With kAheadBytes, what lies that far behind
// each element of `b` is fetched meanwhile: the processor does not see through many short rows read side by side.
// As many at once as half of the registers hold the sums of, in as square a tile as that gives: it loads the least.
template <typename T, int kRows, int kAheadBytes = 0, typename RowsA, typename RowsB>
TURBOSPEC_INLINE V16 dot_tile(RowsA a, RowsB b, std::int64_t length) {
  typedef Dot<T> D;
  constexpr int kColumns = kLanes / kRows;
  constexpr int kHeld = kRegisters / 2 / kParts;
  constexpr int kHeldRows = kHeld == kLanes || kRows < 2 ? kRows : 2;
  constexpr int kHeldColumns = kHeld / kHeldRows < kColumns ? kHeld / kHeldRows : kColumns;
  constexpr std::int64_t kPartStep = D::kStep / kParts;
  V16 sums[kLanes];
#pragma GCC unroll 16
  for (int column = 0; column < kColumns; column += kHeldColumns) {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; row += kHeldRows) {
      VR held[kHeldRows][kHeldColumns][kParts] = {};
      for (std::int64_t k = 0; k < length; k += D::kStep) {
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          typename D::Raw x[kHeldRows];
#pragma GCC unroll 16
          for (int i = 0; i < kHeldRows; ++i)
            x[i] = load_raw<typename D::Raw>(a(row + i) + k + part * kPartStep);
#pragma GCC unroll 16
          for (int j = 0; j < kHeldColumns; ++j) {
            const auto* from = b(column + j) + k + part * kPartStep;
            const auto y = load_raw<typename D::Raw>(from);
            if (kAheadBytes > 0 && part == 0)
              __builtin_prefetch(reinterpret_cast<const char*>(from) + kAheadBytes, 0, 2);
#pragma GCC unroll 16
            for (int i = 0; i < kHeldRows; ++i) held[i][j][part] = D::add(held[i][j][part], x[i], y);
          }
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kHeldRows; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < kHeldColumns; ++j) sums[(row + i) * kColumns + column + j] = bits<V16>(held[i][j]);
    }
  }
  return sum_lanes(sums);
}

}  // namespace turbospec
