// The KV cache: writing keys and values, the slots of each request's tokens, and moving accepted tokens together.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "ops.h"

namespace turbospec {
namespace {

void store_cache_cpu(const at::Tensor& k, const at::Tensor& v, at::Tensor& k_cache, at::Tensor& v_cache,
                     const at::Tensor& indices, std::int64_t row_dim) {
  const Longs slots(indices);
  TORCH_CHECK(k.numel() == slots.size() * row_dim && v.numel() == slots.size() * row_dim, "store_cache_cpu: ",
              slots.size(), " slots of ", row_dim, " elements for ", k.numel(), " and ", v.numel(), " elements");
  write_rows("store_cache_cpu", k_cache, slots, k);
  write_rows("store_cache_cpu", v_cache, slots, v);
}

// Calls f(slots in the table, count, offset among all tokens so far) for every request's tokens [start, end).
template <typename F>
void for_ranges(const char* op, const at::Tensor& req_pool_indices, const at::Tensor& req_to_token,
                const at::Tensor& start, const at::Tensor& end, std::int64_t room, F f) {
  check_table(op, req_to_token);
  const Longs request(req_pool_indices), first(start), last(end);
  TORCH_CHECK(first.size() == request.size() && last.size() == request.size(), op, ": ", request.size(),
              " requests, ", first.size(), " starts, ", last.size(), " ends");
  std::int64_t offset = 0;
  for (std::int64_t b = 0; b < request.size(); ++b) {
    std::int32_t* slots = slots_of(op, req_to_token, request[b], first[b], last[b]);
    const std::int64_t count = last[b] - first[b];
    TORCH_CHECK(offset + count <= room, op, ": the requests have more tokens than the ", room, " cache locations");
    f(slots, count, offset);
    offset += count;
  }
}

void assign_req_to_token_pool_cpu(const at::Tensor& req_pool_indices, at::Tensor& req_to_token,
                                  const at::Tensor& start, const at::Tensor& end, const at::Tensor& out_cache_loc) {
  const Longs source(out_cache_loc);
  for_ranges("assign_req_to_token_pool_cpu", req_pool_indices, req_to_token, start, end, source.size(),
             [&](std::int32_t* slots, std::int64_t count, std::int64_t offset) {
               std::copy_n(source.data() + offset, count, slots);
             });
}

void assign_extend_cache_locs_cpu(const at::Tensor& req_pool_indices, const at::Tensor& req_to_token,
                                  const at::Tensor& start, const at::Tensor& end, at::Tensor& out_cache_loc) {
  const char* op = "assign_extend_cache_locs_cpu";
  write_integers(op, "out_cache_loc", out_cache_loc, [&](auto* out) {
    for_ranges(op, req_pool_indices, req_to_token, start, end, out_cache_loc.numel(),
               [&](const std::int32_t* slots, std::int64_t count, std::int64_t offset) {
                 std::copy_n(slots, count, out + offset);
               });
  });
}

// Each of a request's topk branches gets a row of its own: the common prefix, then that branch's num_steps slots.
at::Tensor build_draft_decode_metadata_cpu(const at::Tensor& req_to_token, const at::Tensor& req_pool_indices,
                                           const at::Tensor& seq_lens, std::int64_t topk, std::int64_t num_steps,
                                           std::int64_t pool_len) {
  const char* op = "build_draft_decode_metadata_cpu";
  check_table(op, req_to_token);
  const Longs request(req_pool_indices), length(seq_lens);
  at::Tensor out = at::empty({request.size() * topk, pool_len}, req_to_token.options());
  for (std::int64_t b = 0; b < request.size(); ++b) {
    const std::int64_t prefix = length[b];
    TORCH_CHECK(prefix + num_steps <= pool_len, op, ": ", prefix, " tokens and ", num_steps, " drafts in a row of ",
                pool_len);
    const std::int32_t* row = slots_of(op, req_to_token, request[b], 0, prefix + topk * num_steps);
    for (std::int64_t branch = 0; branch < topk; ++branch) {
      std::int32_t* to = out.data_ptr<std::int32_t>() + (b * topk + branch) * pool_len;
      std::copy_n(row, prefix, to);
      std::copy_n(row + prefix + branch * num_steps, num_steps, to + prefix);
    }
  }
  return out;
}

// Per buffer: row tgt[i] = row src[i], as if every row were read before the first is written.
void copy_all_layer_kv_cache_cpu(const at::Tensor& data_ptrs, const at::Tensor& strides, const at::Tensor& tgt_loc,
                                 const at::Tensor& src_loc) {
  const Longs base(data_ptrs), row_bytes(strides), target(tgt_loc), source(src_loc);
  TORCH_CHECK(base.size() == row_bytes.size() && target.size() == source.size(), "copy_all_layer_kv_cache_cpu: ",
              base.size(), " buffers with ", row_bytes.size(), " strides, ", target.size(), " targets for ",
              source.size(), " sources");
  if (std::equal(source.data(), source.data() + source.size(), target.data())) return;
  std::vector<char> rows;
  for (std::int64_t layer = 0; layer < base.size(); ++layer) {
    auto* buffer = reinterpret_cast<char*>(base[layer]);
    const std::int64_t bytes = row_bytes[layer];
    rows.resize(source.size() * bytes);
    for (std::int64_t i = 0; i < source.size(); ++i)
      std::memcpy(&rows[i * bytes], buffer + source[i] * bytes, bytes);
    for (std::int64_t i = 0; i < target.size(); ++i)
      std::memcpy(buffer + target[i] * bytes, &rows[i * bytes], bytes);
  }
}

}  // namespace
}  // namespace turbospec

TORCH_LIBRARY_FRAGMENT(sgl_kernel, m) {
  m.def(
      "store_cache_cpu(Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor indices, int row_dim) "
      "-> ()");
  m.def(
      "assign_req_to_token_pool_cpu(Tensor req_pool_indices, Tensor(a!) req_to_token, Tensor start, Tensor end, "
      "Tensor out_cache_loc) -> ()");
  m.def(
      "assign_extend_cache_locs_cpu(Tensor req_pool_indices, Tensor req_to_token, Tensor start, Tensor end, "
      "Tensor(a!) out_cache_loc) -> ()");
  m.def(
      "build_draft_decode_metadata_cpu(Tensor req_to_token, Tensor req_pool_indices, Tensor seq_lens, int topk, "
      "int num_steps, int pool_len) -> Tensor");
  m.def(
      "copy_all_layer_kv_cache_cpu(Tensor data_ptrs, Tensor strides, Tensor tgt_loc, Tensor src_loc) -> ()");
  m.impl("store_cache_cpu", c10::DispatchKey::CPU, &turbospec::store_cache_cpu);
  m.impl("assign_req_to_token_pool_cpu", c10::DispatchKey::CPU, &turbospec::assign_req_to_token_pool_cpu);
  m.impl("assign_extend_cache_locs_cpu", c10::DispatchKey::CPU, &turbospec::assign_extend_cache_locs_cpu);
  m.impl("build_draft_decode_metadata_cpu", c10::DispatchKey::CPU, &turbospec::build_draft_decode_metadata_cpu);
  m.impl("copy_all_layer_kv_cache_cpu", c10::DispatchKey::CPU, &turbospec::copy_all_layer_kv_cache_cpu);
}
