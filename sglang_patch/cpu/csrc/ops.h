// What the operators share: integers of either width, the request table, and writes into the KV cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <cstring>

namespace turbospec {

// SGLang passes int32 or int64 where the operator does not care; reading goes through int64.
class Longs {
 public:
  explicit Longs(const at::Tensor& t) : tensor_(t.to(at::kLong).contiguous()) {}
  std::int64_t size() const { return tensor_.numel(); }
  const std::int64_t* data() const { return tensor_.const_data_ptr<std::int64_t>(); }
  std::int64_t operator[](std::int64_t i) const { return data()[i]; }

 private:
  at::Tensor tensor_;
};

// Calls f(pointer) with the integers of a dense output.
template <typename F>
void write_integers(const char* op, const char* name, at::Tensor& t, F f) {
  TORCH_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous");
  if (t.scalar_type() == at::kLong) return f(t.data_ptr<std::int64_t>());
  TORCH_CHECK(t.scalar_type() == at::kInt, op, ": ", name, " must be int32 or int64, got ", t.scalar_type());
  f(t.data_ptr<std::int32_t>());
}

inline void check_table(const char* op, const at::Tensor& req_to_token) {
  TORCH_CHECK(req_to_token.scalar_type() == at::kInt && req_to_token.dim() == 2 && req_to_token.stride(1) == 1, op,
              ": req_to_token must be a row-major int32 table, got ", req_to_token.scalar_type(), " with ",
              req_to_token.dim(), " dimensions");
}

// The slots of one request's tokens [begin, end), checked against the table.
inline std::int32_t* slots_of(const char* op, const at::Tensor& req_to_token, std::int64_t request, std::int64_t begin,
                              std::int64_t end) {
  TORCH_CHECK(request >= 0 && request < req_to_token.size(0), op, ": request ", request, " of a table of ",
              req_to_token.size(0));
  TORCH_CHECK(begin >= 0 && begin <= end && end <= req_to_token.size(1), op, ": tokens [", begin, ", ", end,
              ") of a row of ", req_to_token.size(1));
  auto* table = static_cast<std::int32_t*>(const_cast<void*>(req_to_token.const_data_ptr()));
  return table + request * req_to_token.stride(0) + begin;
}

// buffer[slots[i]] = rows[i], for a buffer [slots, ...] whose rows are dense.
inline void write_rows(const char* op, at::Tensor& buffer, const Longs& slots, const at::Tensor& rows) {
  TORCH_CHECK(buffer.scalar_type() == rows.scalar_type(), op, ": KV cache is ", buffer.scalar_type(),
              ", keys and values are ", rows.scalar_type(), "; on CPU they must be the same (no fp8 KV cache)");
  if (slots.size() == 0) return;
  at::Tensor from = rows.reshape({slots.size(), -1});
  if (from.stride(1) != 1) from = from.contiguous();
  const std::int64_t size = from.element_size(), bytes = from.size(1) * size;
  TORCH_CHECK(buffer.numel() == buffer.size(0) * from.size(1), op, ": rows of ", from.size(1),
              " elements for a KV cache of ", buffer.sizes());
  const auto* source = static_cast<const char*>(from.const_data_ptr());
  auto* target = static_cast<char*>(buffer.data_ptr());
  for (std::int64_t i = 0; i < slots.size(); ++i) {
    TORCH_CHECK(slots[i] >= 0 && slots[i] < buffer.size(0), op, ": slot ", slots[i], " of a KV cache of ",
                buffer.size(0));
    std::memcpy(target + slots[i] * buffer.stride(0) * size, source + i * from.stride(0) * size, bytes);
  }
}

}  // namespace turbospec
