// The attention operators: decode (one query token a request) and extend (prefill, draft extend, and the verification
// of a chain or a tree of draft tokens), over a KV cache addressed through SGLang's request table.
#include "attention.h"

#include <torch/library.h>

#include <optional>

#include "ops.h"

namespace turbospec {
namespace {

constexpr std::int64_t kTokensPerItem = 32;  // query tokens that one work item carries through the keys
constexpr std::int64_t kMaxHeadDim = 256;

struct Options {
  double k_scale, v_scale, logit_cap;
  bool is_cross_attn;
  std::int64_t sliding_window;
  bool sinks;
};

void refuse(const char* op, const Options& o) {
  TORCH_CHECK(o.logit_cap == 0, op, ": logit_cap=", o.logit_cap, " is not supported on CPU, only 0 is");
  TORCH_CHECK(!o.is_cross_attn, op, ": is_cross_attn=True is not supported on CPU");
  TORCH_CHECK(o.sliding_window <= 0, op, ": sliding_window=", o.sliding_window, " is not supported on CPU");
  TORCH_CHECK(!o.sinks, op, ": attention sinks are not supported on CPU");
  TORCH_CHECK(o.k_scale == 1 && o.v_scale == 1, op, ": KV scales (", o.k_scale, ", ", o.v_scale,
              ") are not supported on CPU, only 1 is");
}

void check_layout(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o) {
  for (const at::Tensor& t : {q, k, v, o}) {
    TORCH_CHECK(t.dim() == 3 && t.stride(2) == 1, op, ": tensors must be [tokens, heads, head_dim], dense in the last");
    TORCH_CHECK(t.scalar_type() == q.scalar_type(), op, ": query is ", q.scalar_type(), ", but output or KV cache is ",
                t.scalar_type(), "; on CPU they must be the same (no fp8 KV cache)");
  }
  TORCH_CHECK(q.scalar_type() == at::kFloat || q.scalar_type() == at::kBFloat16, op, ": ", q.scalar_type(),
              " is not supported on CPU, only float32 and bfloat16 are");
  const std::int64_t dim = q.size(2);
  TORCH_CHECK(k.size(2) == dim && v.size(2) == dim, op, ": query, key and value head dimensions are ", dim, ", ",
              k.size(2), ", ", v.size(2), "; on CPU they must be the same");
  TORCH_CHECK(dim % 32 == 0 && dim <= kMaxHeadDim, op, ": head_dim=", dim, " is not supported on CPU, only multiples ",
              "of 32 up to ", kMaxHeadDim, " are");
  TORCH_CHECK(q.size(1) % k.size(1) == 0, op, ": ", q.size(1), " query heads do not divide among ", k.size(1),
              " KV heads");
}

void run(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o,
         double scale, const std::vector<Item>& items) {
  check_layout(op, q, k, v, o);
  if (q.scalar_type() == at::kFloat) return attend_all<float>(q, k, v, o, scale, items);
  attend_all<c10::BFloat16>(q, k, v, o, scale, items);
}

// tree_mask, if given, holds for each request its own [extend, extend] square: row i marks what draft token i sees.
void extend_attention_cpu(const at::Tensor& q, const std::optional<at::Tensor>& k, const std::optional<at::Tensor>& v,
                          at::Tensor& o, const at::Tensor& k_buffer, const at::Tensor& v_buffer, double k_scale,
                          double v_scale, const at::Tensor& req_to_token, const at::Tensor& req_pool_indices,
                          const at::Tensor& seq_lens, const at::Tensor& extend_seq_lens,
                          const at::Tensor& extend_start_loc, std::int64_t max_len_extend, double sm_scale,
                          double logit_cap, bool is_cross_attn, std::int64_t sliding_window,
                          const std::optional<at::Tensor>& encoder_lens, const std::optional<at::Tensor>& sinks,
                          const std::optional<at::Tensor>& tree_mask, bool is_causal) {
  const char* op = "extend_attention_cpu";
  refuse(op, {k_scale, v_scale, logit_cap, is_cross_attn, sliding_window, sinks.has_value()});
  TORCH_CHECK(is_causal, op, ": is_causal=False (encoder attention) is not supported on CPU");
  check_table(op, req_to_token);
  const Longs request(req_pool_indices), length(seq_lens), extend(extend_seq_lens), start(extend_start_loc);
  const bool* mask = nullptr;
  if (tree_mask) {
    std::int64_t wanted = 0;
    for (std::int64_t b = 0; b < extend.size(); ++b) wanted += extend[b] * extend[b];
    TORCH_CHECK(tree_mask->scalar_type() == at::kBool, op, ": a tree mask of type ", tree_mask->scalar_type(),
                " (bit-packed) is not supported on CPU, only bool is");
    TORCH_CHECK(tree_mask->is_contiguous() && tree_mask->numel() == wanted, op, ": the tree mask has ",
                tree_mask->numel(), " entries, one square per request takes ", wanted);
    mask = tree_mask->const_data_ptr<bool>();
  }
  std::vector<Item> items;
  for (std::int64_t b = 0; b < request.size(); ++b) {
    const std::int64_t keys = length[b], count = extend[b], first = start[b], prefix = keys - count;
    TORCH_CHECK(prefix >= 0 && first >= 0 && first + count <= q.size(0), op, ": request ", b, " extends ", count,
                " tokens from row ", first, " of a sequence of ", keys, ", with ", q.size(0), " rows in all");
    const std::int32_t* slots = slots_of(op, req_to_token, request[b], 0, keys);
    for (std::int64_t t = 0; t < count; t += kTokensPerItem) {
      const std::int64_t tokens = std::min(kTokensPerItem, count - t);
      const std::int64_t seen = mask != nullptr ? keys : prefix + t + tokens;
      for (std::int64_t head = 0; head < k_buffer.size(1); ++head)
        items.push_back({slots, head, first + t, tokens, prefix + t, mask != nullptr ? mask + t * count : nullptr,
                         count, prefix, seen});
    }
    if (mask != nullptr) mask += count * count;
  }
  run(op, q, k_buffer, v_buffer, o, sm_scale, items);
}

void decode_attention_cpu(const at::Tensor& q, at::Tensor& k_buffer, at::Tensor& v_buffer, double k_scale,
                          double v_scale, at::Tensor& o, const std::optional<at::Tensor>& k,
                          const std::optional<at::Tensor>& v, const at::Tensor& loc, const at::Tensor& attn_logits,
                          const at::Tensor& req_to_token, const at::Tensor& req_pool_indices,
                          const at::Tensor& seq_lens, double sm_scale, double logit_cap, bool is_cross_attn,
                          std::int64_t sliding_window, const std::optional<at::Tensor>& encoder_lens,
                          const std::optional<at::Tensor>& sinks) {
  const char* op = "decode_attention_cpu";
  refuse(op, {k_scale, v_scale, logit_cap, is_cross_attn, sliding_window, sinks.has_value()});
  check_table(op, req_to_token);
  if (k && v) {  // this step's keys and values are not in the cache yet
    const Longs slots(loc);
    write_rows(op, k_buffer, slots, *k);
    write_rows(op, v_buffer, slots, *v);
  }
  const Longs request(req_pool_indices), length(seq_lens);
  std::vector<Item> items;
  for (std::int64_t b = 0; b < request.size(); ++b) {
    const std::int64_t keys = length[b];
    const std::int32_t* slots = slots_of(op, req_to_token, request[b], 0, keys);
    for (std::int64_t head = 0; head < k_buffer.size(1); ++head)
      items.push_back({slots, head, b, 1, keys - 1, nullptr, 0, 0, keys});
  }
  run(op, q, k_buffer, v_buffer, o, sm_scale, items);
}

}  // namespace
}  // namespace turbospec

TORCH_LIBRARY_FRAGMENT(sgl_kernel, m) {
  m.def(
      "extend_attention_cpu(Tensor q, Tensor? k, Tensor? v, Tensor(a!) o, Tensor k_buffer, Tensor v_buffer, "
      "float k_scale, float v_scale, Tensor req_to_token, Tensor req_pool_indices, Tensor seq_lens, "
      "Tensor extend_seq_lens, Tensor extend_start_loc, int max_len_extend, float sm_scale, float logit_cap, "
      "bool is_cross_attn, int sliding_window, Tensor? encoder_lens, Tensor? sinks, Tensor? tree_mask, "
      "bool is_causal) -> ()");
  m.def(
      "decode_attention_cpu(Tensor q, Tensor(b!) k_buffer, Tensor(c!) v_buffer, float k_scale, float v_scale, "
      "Tensor(a!) o, Tensor? k, Tensor? v, Tensor loc, Tensor attn_logits, Tensor req_to_token, "
      "Tensor req_pool_indices, Tensor seq_lens, float sm_scale, float logit_cap, bool is_cross_attn, "
      "int sliding_window, Tensor? encoder_lens, Tensor? sinks) -> ()");
  m.impl("extend_attention_cpu", c10::DispatchKey::CPU, &turbospec::extend_attention_cpu);
  m.impl("decode_attention_cpu", c10::DispatchKey::CPU, &turbospec::decode_attention_cpu);
}
