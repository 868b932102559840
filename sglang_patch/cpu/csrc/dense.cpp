// Norms, activation, rotary embedding and the write into the KV cache, each in one pass over its rows.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "vec.h"

namespace turbospec {
namespace {

constexpr std::int64_t kElementsPerTask = 1 << 15;  // less than this is not worth a second thread

void check_type(const char* op, const at::Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, op, ": ", t.scalar_type(),
              " is not supported on CPU, only float32 and bfloat16 are");
}

// Calls f(T{}) with the element type of `t`.
template <typename F>
void with_type(const char* op, const at::Tensor& t, F f) {
  check_type(op, t);
  t.scalar_type() == at::kFloat ? f(float{}) : f(c10::BFloat16{});
}

// Calls f(row) for every row.
template <typename F>
void for_rows(std::int64_t rows, std::int64_t width, F f) {
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kElementsPerTask / width), [&](std::int64_t a, std::int64_t b) {
    for (std::int64_t row = a; row < b; ++row) f(row);
  });
}

// A vector of x, zeros behind `left` elements.
template <typename T>
V16 load_part(const T* x, std::int64_t left) {
  if (left >= kLanes) return load(x);
  T part[kLanes] = {};
  std::memcpy(part, x, left * sizeof(T));
  return load(part);
}

template <typename T>
void store_part(T* x, V16 v, std::int64_t left) {
  if (left >= kLanes) return store(x, v);
  T part[kLanes];
  store(part, v);
  std::memcpy(x, part, left * sizeof(T));
}

// out = x / rms(x) * weight, x in float32 in `row`
template <typename T>
void normalize(const float* row, const T* weight, T* out, std::int64_t width, float eps) {
  V16 squares{};
  for (std::int64_t d = 0; d < width; d += kLanes) {
    const V16 x = load_part(row + d, width - d);
    squares = squares + x * x;
  }
  const V16 scale = splat(1.0f / std::sqrt(sum_lane(squares) / static_cast<float>(width) + eps));
  for (std::int64_t d = 0; d < width; d += kLanes)
    store_part(out + d, load_part(row + d, width - d) * scale * load_part(weight + d, width - d), width - d);
}

// x and residual are [rows, width], dense in the last dimension; residual may be null.
template <typename T>
void norm_rows(const T* x, std::int64_t x_stride, T* residual, std::int64_t residual_stride, const T* weight, T* out,
               std::int64_t out_stride, std::int64_t rows, std::int64_t width, float eps) {
  for_rows(rows, width, [&](std::int64_t r) {
    thread_local std::vector<float> row;
    row.resize(width);
    for (std::int64_t d = 0; d < width; d += kLanes) {
      V16 sum = load_part(x + r * x_stride + d, width - d);
      if (residual != nullptr) {
        sum = sum + load_part(residual + r * residual_stride + d, width - d);
        store_part(residual + r * residual_stride + d, sum, width - d);
      }
      store_part(&row[d], sum, width - d);
    }
    normalize(row.data(), weight, out + r * out_stride, width, eps);
  });
}

at::Tensor rmsnorm_cpu(const at::Tensor& input, const at::Tensor& weight, double eps) {
  const std::int64_t width = weight.numel();
  TORCH_CHECK(input.size(-1) == width, "rmsnorm_cpu: rows of ", input.size(-1), " but a weight of ", width);
  const at::Tensor x = input.contiguous(), w = weight.to(x.scalar_type()).contiguous();
  at::Tensor out = at::empty_like(x);
  with_type("rmsnorm_cpu", x, [&](auto zero) {
    using T = decltype(zero);
    norm_rows<T>(x.const_data_ptr<T>(), width, nullptr, 0, w.const_data_ptr<T>(), out.data_ptr<T>(), width,
                 x.numel() / width, width, static_cast<float>(eps));
  });
  return out;
}

// residual += input; input = residual / rms(residual) * weight, the sum taken before it is rounded to the residual.
void fused_add_rmsnorm_cpu(at::Tensor& input, at::Tensor& residual, const at::Tensor& weight, double eps) {
  const char* op = "fused_add_rmsnorm_cpu";
  const std::int64_t width = weight.numel();
  TORCH_CHECK(input.dim() == 2 && input.size(1) == width && input.stride(1) == 1, op, ": input must be [rows, ", width,
              "], dense in the last");
  TORCH_CHECK(residual.sizes() == input.sizes() && residual.stride(1) == 1, op, ": residual must match the input");
  TORCH_CHECK(residual.scalar_type() == input.scalar_type(), op, ": input is ", input.scalar_type(), ", residual is ",
              residual.scalar_type(), "; on CPU they must be the same");
  const at::Tensor w = weight.to(input.scalar_type()).contiguous();
  with_type(op, input, [&](auto zero) {
    using T = decltype(zero);
    norm_rows<T>(input.const_data_ptr<T>(), input.stride(0), residual.data_ptr<T>(), residual.stride(0),
                 w.const_data_ptr<T>(), input.data_ptr<T>(), input.stride(0), input.size(0), width,
                 static_cast<float>(eps));
  });
}

at::Tensor silu_and_mul_cpu(const at::Tensor& input) {
  const at::Tensor x = input.contiguous();
  const std::int64_t width = x.size(-1) / 2;
  TORCH_CHECK(x.size(-1) == 2 * width, "silu_and_mul_cpu: the last dimension is odd: ", x.size(-1));
  auto shape = x.sizes().vec();
  shape.back() = width;
  at::Tensor out = at::empty(shape, x.options());
  with_type("silu_and_mul_cpu", x, [&](auto zero) {
    using T = decltype(zero);
    for_rows(x.numel() / (2 * width), 2 * width, [&](std::int64_t r) {
      const T* gate = x.const_data_ptr<T>() + r * 2 * width;
      T* to = out.data_ptr<T>() + r * width;
      for (std::int64_t d = 0; d < width; d += kLanes) {
        const V16 g = load_part(gate + d, width - d), up = load_part(gate + width + d, width - d);
        store_part(to + d, g / (splat(1.0f) + exp(-g)) * up, width - d);
      }
    });
  });
  return out;
}

// The first 2 * half elements of a head are rotated pair by pair; cache holds half cosines, then half sines.
template <typename T>
void rotate_head(const T* from, T* to, const float* cache, std::int64_t half, std::int64_t head_size, bool is_neox) {
  const std::int64_t step = is_neox ? 1 : 2, other = is_neox ? half : 1;
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = static_cast<float>(from[i * step]), b = static_cast<float>(from[i * step + other]);
    to[i * step] = static_cast<T>(a * cache[i] - b * cache[half + i]);
    to[i * step + other] = static_cast<T>(b * cache[i] + a * cache[half + i]);
  }
  std::memcpy(to + 2 * half, from + 2 * half, (head_size - 2 * half) * sizeof(T));
}

// The same for neighbouring halves (NeoX order), sixteen pairs at a time.
template <typename T>
void rotate_head_neox(const T* from, T* to, const float* cache, std::int64_t half, std::int64_t head_size) {
  for (std::int64_t i = 0; i < half; i += kLanes) {
    const V16 a = load(from + i), b = load(from + half + i), cosine = load(cache + i), sine = load(cache + half + i);
    store(to + i, a * cosine - b * sine);
    store(to + half + i, b * cosine + a * sine);
  }
  std::memcpy(to + 2 * half, from + 2 * half, (head_size - 2 * half) * sizeof(T));
}

template <typename T>
at::Tensor rotate(const at::Tensor& x, const float* cache, std::int64_t rotary, std::int64_t head_size, bool is_neox) {
  const at::Tensor rows = x.dim() == 2 && x.stride(1) == 1 ? x : x.contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options());
  const std::int64_t tokens = x.size(0), width = tokens == 0 ? 0 : x.numel() / tokens, half = rotary / 2;
  const std::int64_t stride = rows.dim() == 2 ? rows.stride(0) : width;
  for_rows(tokens, std::max<std::int64_t>(1, width), [&](std::int64_t t) {
    for (std::int64_t at = 0; at < width; at += head_size) {
      const T* from = rows.const_data_ptr<T>() + t * stride + at;
      T* to = out.data_ptr<T>() + t * width + at;
      if (is_neox && half % kLanes == 0)
        rotate_head_neox(from, to, cache + t * rotary, half, head_size);
      else
        rotate_head(from, to, cache + t * rotary, half, head_size, is_neox);
    }
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> rotary_embedding_cpu(const at::Tensor& positions, const at::Tensor& query,
                                                        const at::Tensor& key, std::int64_t head_size,
                                                        const at::Tensor& cos_sin_cache, bool is_neox) {
  const char* op = "rotary_embedding_cpu";
  TORCH_CHECK(query.size(0) == positions.numel() && key.size(0) == positions.numel(), op, ": ", positions.numel(),
              " positions for ", query.size(0), " queries and ", key.size(0), " keys");
  TORCH_CHECK(query.scalar_type() == key.scalar_type(), op, ": query is ", query.scalar_type(), ", key is ",
              key.scalar_type());
  const at::Tensor cache = cos_sin_cache.index_select(0, positions.flatten()).to(at::kFloat).contiguous();
  const std::int64_t rotary = cache.size(1);
  TORCH_CHECK(rotary <= head_size && rotary % 2 == 0, op, ": rotary dimension ", rotary, " of a head of ", head_size);
  at::Tensor q, k;
  with_type(op, query, [&](auto zero) {
    using T = decltype(zero);
    q = rotate<T>(query, cache.const_data_ptr<float>(), rotary, head_size, is_neox);
    k = rotate<T>(key, cache.const_data_ptr<float>(), rotary, head_size, is_neox);
  });
  return {q, k};
}

}  // namespace
}  // namespace turbospec

TORCH_LIBRARY_FRAGMENT(sgl_kernel, m) {
  m.def("rmsnorm_cpu(Tensor input, Tensor weight, float eps) -> Tensor");
  m.def("fused_add_rmsnorm_cpu(Tensor(a!) input, Tensor(b!) residual, Tensor weight, float eps) -> ()");
  m.def("silu_and_mul_cpu(Tensor input) -> Tensor");
  m.def(
      "rotary_embedding_cpu(Tensor positions, Tensor query, Tensor key, int head_size, Tensor cos_sin_cache, "
      "bool is_neox) -> (Tensor, Tensor)");
  m.impl("rmsnorm_cpu", c10::DispatchKey::CPU, &turbospec::rmsnorm_cpu);
  m.impl("fused_add_rmsnorm_cpu", c10::DispatchKey::CPU, &turbospec::fused_add_rmsnorm_cpu);
  m.impl("silu_and_mul_cpu", c10::DispatchKey::CPU, &turbospec::silu_and_mul_cpu);
  m.impl("rotary_embedding_cpu", c10::DispatchKey::CPU, &turbospec::rotary_embedding_cpu);
}
