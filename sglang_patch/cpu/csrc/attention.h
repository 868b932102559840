// // Flash attention (Dao et al., arXiv 2205.14135, algorithm 1) one request and one KV head at a time: keys in blocks
// of 64, a running maximum and a running sum per row. The blocks start at key 0 whatever the query, and a masked key
// adds an exact zero, so a token's row has the same bits whether it is decoded alone or verified among others.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "vec.h"

namespace turbospec {

constexpr std::int64_t kKeyBlock = 64;
constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Row-major view of a [tokens or slots, heads, head_dim] tensor.
template <typename T>
struct Rows {
  T* data;
  std::int64_t token_stride, head_stride;
  T* at(std::int64_t token, std::int64_t head) const { return data + token * token_stride + head * head_stride; }
};

template <typename T, typename Tensor>
Rows<T> rows_of(const Tensor& t) {
  return {static_cast<T*>(const_cast<void*>(t.const_data_ptr())), t.stride(0), t.stride(1)};
}

// One request, one KV head, a run of its query tokens.
struct Item {
  const std::int32_t* slots;  // of the request's keys, oldest first
  std::int64_t kv_head;
  std::int64_t first_query;   // row of q and o
  std::int64_t tokens;
  std::int64_t first_key;     // query token i sees keys up to first_key + i, unless a mask says otherwise
  const bool* mask;           // [tokens, mask_stride] over the keys from mask_key on; may be null
  std::int64_t mask_stride, mask_key;
  std::int64_t keys;          // keys to look at in all
};

template <typename T>
struct Problem {
  Rows<const T> q, k, v;
  Rows<T> o;
  std::int64_t group, dim;  // query heads per KV head; head dimension
  float scale;
};

struct Scratch {
  std::vector<float> scores, values, out, best, total;
  void size_for(std::int64_t rows, std::int64_t dim) {
    scores.resize(rows * kKeyBlock);
    values.resize(kKeyBlock * dim);
    out.assign(rows * dim, 0.0f);
    best.assign(rows, kMasked);
    total.assign(rows * kLanes, 0.0f);
  }
};

template <typename T, int kRows>
void score_tile(const Problem<T>& p, const Item& item, std::int64_t row, std::int64_t key, std::int64_t count,
                float* scores) {
  constexpr int kColumns = kLanes / kRows;
  const T *q[kRows], *k[kColumns];
  for (int i = 0; i < kRows; ++i)
    q[i] = p.q.at(item.first_query + (row + i) / p.group, item.kv_head * p.group + (row + i) % p.group);
  for (std::int64_t column = 0; column < count; column += kColumns) {
    for (std::int64_t j = 0; j < kColumns; ++j)  // past the last key the last key again; its score is masked
      k[j] = p.k.at(item.slots[key + std::min(column + j, count - 1)], item.kv_head);
    float out[kLanes];
    store(out, dot_tile<T, kRows>([&](int i) { return q[i]; }, [&](int j) { return k[j]; }, p.dim) * splat(p.scale));
    for (int i = 0; i < kRows; ++i)
      std::memcpy(scores + i * kKeyBlock + column, out + i * kColumns, kColumns * sizeof(float));
  }
}

template <typename T>
void score_block(const Problem<T>& p, const Item& item, std::int64_t key, std::int64_t count, float* scores) {
  const std::int64_t rows = item.tokens * p.group;
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) score_tile<T, 4>(p, item, row, key, count, scores + row * kKeyBlock);
  if (rows - row >= 2) score_tile<T, 2>(p, item, row, key, count, scores + row * kKeyBlock), row += 2;
  if (rows - row >= 1) score_tile<T, 1>(p, item, row, key, count, scores + row * kKeyBlock);
}

// Sets to -inf the scores of the keys that a query token must not see, and of the padding of the last block.
inline void mask_block(const Item& item, std::int64_t group, std::int64_t key, std::int64_t count, float* scores) {
  for (std::int64_t row = 0; row < item.tokens * group; ++row) {
    const std::int64_t token = row / group;
    float* s = scores + row * kKeyBlock;
    std::fill(s + count, s + kKeyBlock, kMasked);
    if (item.mask == nullptr) {
      const std::int64_t visible = std::clamp<std::int64_t>(item.first_key + token + 1 - key, 0, count);
      std::fill(s + visible, s + count, kMasked);
      continue;
    }
    const bool* mask = item.mask + token * item.mask_stride;
    for (std::int64_t j = std::max<std::int64_t>(0, item.mask_key - key); j < count; ++j)
      if (!mask[key + j - item.mask_key]) s[j] = kMasked;
  }
}

// Scores become weights exp(score - maximum); what the row has gathered so far is rescaled to the new maximum.
inline void soften_row(float* scores, float* best, float* total, float* out, std::int64_t dim) {
  V16 high = load(scores);
  for (std::int64_t j = kLanes; j < kKeyBlock; j += kLanes) high = max(high, load(scores + j));
  const float peak = std::max(*best, max_lane(high));
  if (peak == kMasked) {  // nothing visible yet
    std::fill(scores, scores + kKeyBlock, 0.0f);
    return;
  }
  V16 sum = load(total);
  if (peak != *best) {
    const V16 shrink = exp(splat(*best - peak));
    for (std::int64_t d = 0; d < dim; d += kLanes) store(out + d, load(out + d) * shrink);
    sum = sum * shrink;
    *best = peak;
  }
  for (std::int64_t j = 0; j < kKeyBlock; j += kLanes) {
    const V16 weight = exp(load(scores + j) - splat(peak));
    store(scores + j, weight);
    sum = sum + weight;
  }
  store(total, sum);
}

// out[i] += weights[i] . values for kRows rows and kVectors registers of columns.
template <int kRows, int kVectors>
void gather_tile(const float* weights, const float* values, std::int64_t count, std::int64_t dim, float* out) {
  VR sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) sums[i][c] = load_raw<VR>(out + i * dim + c * kRegisterLanes);
  for (std::int64_t j = 0; j < count; ++j) {
    VR value[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) value[c] = load_raw<VR>(values + j * dim + c * kRegisterLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const float weight = weights[i * kKeyBlock + j];
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sums[i][c] = sums[i][c] + value[c] * weight;
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) std::memcpy(out + i * dim + c * kRegisterLanes, &sums[i][c], sizeof(VR));
}

template <int kRows>
void gather_rows(const float* weights, const float* values, std::int64_t count, std::int64_t dim, float* out) {
  constexpr int kVectors = kRegisters / 8;  // four rows of sums fill half of the registers
  std::int64_t d = 0;
  for (; d + kVectors * kRegisterLanes <= dim; d += kVectors * kRegisterLanes)
    gather_tile<kRows, kVectors>(weights, values + d, count, dim, out + d);
  for (; d < dim; d += 2 * kRegisterLanes) gather_tile<kRows, 2>(weights, values + d, count, dim, out + d);
}

template <typename T>
void attend_block(const Problem<T>& p, const Item& item, std::int64_t key, Scratch& scratch) {
  const std::int64_t rows = item.tokens * p.group, count = std::min(kKeyBlock, item.keys - key);
  float *scores = scratch.scores.data(), *values = scratch.values.data(), *out = scratch.out.data();
  score_block(p, item, key, count, scores);
  mask_block(item, p.group, key, count, scores);
  for (std::int64_t j = 0; j < count; ++j) {
    const T* v = p.v.at(item.slots[key + j], item.kv_head);
    for (std::int64_t d = 0; d < p.dim; d += kLanes) store(values + j * p.dim + d, load(v + d));
  }
  for (std::int64_t row = 0; row < rows; ++row)
    soften_row(scores + row * kKeyBlock, &scratch.best[row], &scratch.total[row * kLanes], out + row * p.dim, p.dim);
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) gather_rows<4>(scores + row * kKeyBlock, values, count, p.dim, out + row * p.dim);
  if (rows - row >= 2) gather_rows<2>(scores + row * kKeyBlock, values, count, p.dim, out + row * p.dim), row += 2;
  if (rows - row >= 1) gather_rows<1>(scores + row * kKeyBlock, values, count, p.dim, out + row * p.dim);
}

template <typename T>
void attend(const Problem<T>& p, const Item& item, Scratch& scratch) {
  const std::int64_t rows = item.tokens * p.group;
  scratch.size_for(rows, p.dim);
  for (std::int64_t key = 0; key < item.keys; key += kKeyBlock) attend_block(p, item, key, scratch);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float total = sum_lane(load(&scratch.total[row * kLanes]));
    const V16 inverse = splat(total > 0.0f ? 1.0f / total : 0.0f);
    T* o = p.o.at(item.first_query + row / p.group, item.kv_head * p.group + row % p.group);
    for (std::int64_t d = 0; d < p.dim; d += kLanes) store(o + d, load(&scratch.out[row * p.dim + d]) * inverse);
  }
}

template <typename T>
void attend_all(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o, double scale,
                const std::vector<Item>& items) {
  const Problem<T> p{rows_of<const T>(q), rows_of<const T>(k), rows_of<const T>(v), rows_of<T>(o),
                     q.size(1) / k.size(1), q.size(2), static_cast<float>(scale)};
  at::parallel_for(0, static_cast<std::int64_t>(items.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch;
    for (std::int64_t i = begin; i < end; ++i) attend(p, items[i], scratch);
  });
}

}  // namespace turbospec
