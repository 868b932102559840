// Linear layers, weights as they lie in the checkpoint: [out_features, in_features], row major, nothing packed.
//
// Decoding streams every weight once per step, so at small batches the memory sets the time and a packed copy buys
// nothing; it would only double the memory of tied embeddings. A row of the answer is the same bits whatever rows
// are computed beside it. bf16 batches too large for that to matter (prefill) go to oneDNN where the processor has
// instructions for it, AMX above all; where it has none, oneDNN takes four times as long.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "vec.h"

namespace turbospec {
namespace {

constexpr int kAheadBytes = 16384;            // how far in front of the products weights are fetched
constexpr std::int64_t kBlockColumns = 64;     // weight rows that stay in the cache while all batch rows pass
#if defined(__AVX512BW__) || defined(__ARM_FEATURE_BF16)
constexpr std::int64_t kMaxRowsForBf16 = 64;   // above this oneDNN's reordering is paid back
#else
constexpr std::int64_t kMaxRowsForBf16 = std::numeric_limits<std::int64_t>::max();
#endif

template <typename T>
struct Problem {
  const T* x;
  const T* w;
  const float* bias;  // may be null
  T* y;
  std::int64_t rows, columns, depth, x_stride, w_stride;
};

template <typename T, int kRows, int kAheadBytes>
void tile(const Problem<T>& p, std::int64_t row, std::int64_t column) {
  constexpr int kColumns = kLanes / kRows;
  const T* x = p.x + row * p.x_stride;
  const T* w = p.w + column * p.w_stride;
  const V16 sums = dot_tile<T, kRows, kAheadBytes>([=](int i) { return x + i * p.x_stride; },
                                      [=](int j) { return w + j * p.w_stride; }, p.depth);
  T out[kLanes];
  if (p.bias == nullptr) {
    store(out, sums);
  } else {
    float bias[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) bias[lane] = p.bias[column + lane % kColumns];
    store(out, sums + load(bias));
  }
  for (int i = 0; i < kRows; ++i)
    std::memcpy(p.y + (row + i) * p.columns + column, out + i * kColumns, kColumns * sizeof(T));
}

template <typename T, int kRows>
void tiles(const Problem<T>& p, std::int64_t row, std::int64_t begin, std::int64_t end) {
  for (std::int64_t column = begin; column < end; column += kLanes / kRows)
    row == 0 ? tile<T, kRows, kAheadBytes>(p, row, column) : tile<T, kRows, 0>(p, row, column);
}

// Rows that are left over go in one pass, not in one for each power of two: a pass over the weights costs more than
// some rows computed twice, to the same bits.
template <typename T>
void block(const Problem<T>& p, std::int64_t begin, std::int64_t end) {
  std::int64_t row = 0;
  for (; row + 8 <= p.rows; row += 8) tiles<T, 8>(p, row, begin, end);
  const std::int64_t left = p.rows - row;
  if (left > 4) tiles<T, 8>(p, p.rows - 8, begin, end);
  else if (left > 2) tiles<T, 4>(p, p.rows - 4, begin, end);
  else if (left == 2) tiles<T, 2>(p, row, begin, end);
  else if (left == 1) tiles<T, 1>(p, row, begin, end);
}

// As many rows as `block` can do in one pass, where there are fewer than eight.
std::int64_t whole_rows(std::int64_t rows) { return rows > 4 && rows < 8 ? 8 : rows == 3 ? 4 : rows; }

template <typename T>
at::Tensor run(const at::Tensor& rows, const at::Tensor& w, const std::optional<at::Tensor>& bias) {
  const std::int64_t given = rows.size(0), whole = whole_rows(given);
  const at::Tensor x = whole == given ? rows : at::constant_pad_nd(rows, {0, 0, 0, whole - given});
  at::Tensor y = at::empty({whole, w.size(0)}, x.options());
  const Problem<T> p{x.const_data_ptr<T>(), w.const_data_ptr<T>(),
                     bias ? bias->const_data_ptr<float>() : nullptr, y.data_ptr<T>(),
                     x.size(0), w.size(0), x.size(1), x.stride(0), w.stride(0)};
  const std::int64_t blocks = (p.columns + kBlockColumns - 1) / kBlockColumns;
  at::parallel_for(0, blocks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i)
      block(p, i * kBlockColumns, std::min(p.columns, (i + 1) * kBlockColumns));
  });
  return whole == given ? y : y.narrow(0, 0, given);
}

bool fits(const at::Tensor& x, const at::Tensor& w) {
  const std::int64_t step = w.scalar_type() == at::kFloat ? Dot<float>::kStep : Dot<c10::BFloat16>::kStep;
  return w.size(0) % kLanes == 0 && w.size(1) % step == 0 && w.stride(1) == 1 && x.stride(1) == 1;
}

at::Tensor weight_packed_linear(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias,
                                bool is_vnni) {
  (void)is_vnni;
  TORCH_CHECK(x.dim() == 2 && w.dim() == 2, "weight_packed_linear: input and weight must have 2 dimensions, got ",
              x.dim(), " and ", w.dim());
  TORCH_CHECK(x.size(1) == w.size(1), "weight_packed_linear: input has ", x.size(1), " features, weight takes ",
              w.size(1));
  TORCH_CHECK(x.scalar_type() == w.scalar_type(), "weight_packed_linear: input is ", x.scalar_type(),
              ", weight is ", w.scalar_type(), "; they must be the same");
  const bool half = w.scalar_type() == at::kBFloat16;
  TORCH_CHECK(half || w.scalar_type() == at::kFloat, "weight_packed_linear: ", w.scalar_type(),
              " is not supported, use float32 or bfloat16");
  const bool large = half && x.size(0) > kMaxRowsForBf16;
  if (large || !fits(x, w)) return at::linear(x, w, bias ? std::make_optional(bias->to(x.scalar_type())) : bias);
  const auto bias_float = bias ? std::make_optional(bias->to(at::kFloat).contiguous()) : bias;
  return half ? run<c10::BFloat16>(x, w, bias_float) : run<float>(x, w, bias_float);
}

at::Tensor convert_weight_packed(const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2, "convert_weight_packed: a weight with ", weight.dim(),
              " dimensions (mixture of experts) is not supported on CPU, only 2 dimensions are");
  TORCH_CHECK(weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16,
              "convert_weight_packed: a weight of type ", weight.scalar_type(),
              " is not supported on CPU, only float32 and bfloat16 are");
  return weight.contiguous();
}

}  // namespace
}  // namespace turbospec

TORCH_LIBRARY_FRAGMENT(sgl_kernel, m) {
  m.def("weight_packed_linear(Tensor mat1, Tensor mat2, Tensor? bias, bool is_vnni) -> Tensor");
  m.def("convert_weight_packed(Tensor(a) weight) -> Tensor(a)");
  m.impl("weight_packed_linear", c10::DispatchKey::CPU, &turbospec::weight_packed_linear);
  m.impl("convert_weight_packed", c10::DispatchKey::CPU, &turbospec::convert_weight_packed);
}
