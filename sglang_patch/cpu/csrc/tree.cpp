// Trees of draft tokens: building them, reading them back from a mask, verifying them greedily, and the small
// bookkeeping around it. A tree of w nodes lies in rows of w: node 0 is the root (the last committed token), a
// parent comes before its children, next_token is the first child and next_sibling the next child of one's parent.
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "ops.h"

namespace turbospec {
namespace {

constexpr std::int64_t kMaskQlenOnly = 1;  // SGLang's TreeMaskMode.QLEN_ONLY: one [w, w] square per request

// Links children to parents in ascending order. parent[0] is ignored; a node without a parent stays unlinked.
template <typename Index>
void link(const std::vector<std::int64_t>& parent, Index* next_token, Index* next_sibling) {
  const auto w = static_cast<std::int64_t>(parent.size());
  std::fill(next_token, next_token + w, -1);
  std::fill(next_sibling, next_sibling + w, -1);
  for (std::int64_t i = w - 1; i > 0; --i) {
    if (parent[i] < 0) continue;
    next_sibling[i] = next_token[parent[i]];
    next_token[parent[i]] = static_cast<Index>(i);
  }
}

// Node i > 0 is candidate selected[i - 1]; candidate c was drafted from candidate parents[c / topk], -1 meaning the
// root, and the first topk candidates hang below the root.
std::vector<std::int64_t> parents_of(const std::int64_t* parents, std::int64_t parent_count,
                                     const std::int64_t* selected, std::int64_t w, std::int64_t topk) {
  std::vector<std::int64_t> parent(w, -1);
  for (std::int64_t i = 1; i < w; ++i) {
    const std::int64_t group = selected[i - 1] / topk;
    if (group == 0) {
      parent[i] = 0;
      continue;
    }
    TORCH_CHECK(group < parent_count, "build_tree_kernel_efficient_cpu: candidate ", selected[i - 1], " of ",
                parent_count, " groups of ", topk);
    const std::int64_t* found = std::find(selected, selected + i - 1, parents[group]);
    if (found != selected + i - 1) parent[i] = found - selected + 1;
  }
  return parent;
}

void build_tree_kernel_efficient_cpu(const at::Tensor& parent_list, const at::Tensor& selected_index,
                                     const at::Tensor& verified_seq_len, at::Tensor& tree_mask, at::Tensor& positions,
                                     at::Tensor& retrieve_index, at::Tensor& retrieve_next_token,
                                     at::Tensor& retrieve_next_sibling, std::int64_t topk, std::int64_t depth,
                                     std::int64_t draft_token_num, std::int64_t tree_mask_mode) {
  const char* op = "build_tree_kernel_efficient_cpu";
  TORCH_CHECK(tree_mask_mode == kMaskQlenOnly, op, ": tree_mask_mode=", tree_mask_mode,
              " is not supported on CPU (0 is a full mask, 2 a bit-packed one), only 1 (QLEN_ONLY) is");
  const Longs parents(parent_list), selected(selected_index), length(verified_seq_len);
  const std::int64_t w = draft_token_num, batch = length.size();
  TORCH_CHECK(selected.size() == batch * (w - 1), op, ": ", selected.size(), " selected candidates for ", batch,
              " requests of ", w - 1);
  TORCH_CHECK(tree_mask.scalar_type() == at::kBool && tree_mask.is_contiguous() && tree_mask.numel() >= batch * w * w,
              op, ": the tree mask must be ", batch * w * w, " bools, got ", tree_mask.numel(), " of type ",
              tree_mask.scalar_type());
  const std::int64_t per_request = batch == 0 ? 0 : parents.size() / batch;
  bool* mask = tree_mask.data_ptr<bool>();
  auto* position = positions.data_ptr<std::int64_t>();
  auto* index = retrieve_index.data_ptr<std::int64_t>();
  auto* next_token = retrieve_next_token.data_ptr<std::int64_t>();
  auto* next_sibling = retrieve_next_sibling.data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto parent =
        parents_of(parents.data() + b * per_request, per_request, selected.data() + b * (w - 1), w, topk);
    link(parent, next_token + b * w, next_sibling + b * w);
    for (std::int64_t i = 0; i < w; ++i) {
      bool* row = mask + (b * w + i) * w;
      std::fill(row, row + w, false);
      std::int64_t above = 0;
      for (std::int64_t node = i; node > 0; node = parent[node], ++above) row[node] = true;
      row[0] = true;
      position[b * w + i] = length[b] + above;
      index[b * w + i] = b * w + i;
    }
  }
}

void reconstruct_indices_from_tree_mask(const at::Tensor& tree_mask, const at::Tensor& verified_seq_len,
                                        at::Tensor& positions, at::Tensor& retrive_index,
                                        at::Tensor& retrive_next_token, at::Tensor& retrive_next_sibling,
                                        std::int64_t batch_size, std::int64_t draft_token_num) {
  const char* op = "reconstruct_indices_from_tree_mask";
  const std::int64_t w = draft_token_num;
  TORCH_CHECK(tree_mask.scalar_type() == at::kBool && tree_mask.is_contiguous() &&
                  tree_mask.numel() >= batch_size * w * w,
              op, ": the tree mask must be ", batch_size * w * w, " bools, got ", tree_mask.numel(), " of type ",
              tree_mask.scalar_type());
  const Longs length(verified_seq_len);
  const bool* mask = tree_mask.const_data_ptr<bool>();
  std::vector<std::int64_t> parent(w);
  for (std::int64_t b = 0; b < batch_size; ++b) {
    for (std::int64_t i = 0; i < w; ++i) {
      const bool* row = mask + (b * w + i) * w;
      std::int64_t above = 0;
      parent[i] = -1;
      for (std::int64_t j = 0; j < i; ++j)
        if (row[j]) parent[i] = j, ++above;
      positions.data_ptr<std::int64_t>()[b * w + i] = length[b] + above;
      retrive_index.data_ptr<std::int64_t>()[b * w + i] = b * w + i;
    }
    link(parent, retrive_next_token.data_ptr<std::int64_t>() + b * w,
         retrive_next_sibling.data_ptr<std::int64_t>() + b * w);
  }
}

// Walks down from the root: the child whose token is what the target predicted at its parent is accepted.
void verify_tree_greedy_cpu(at::Tensor& predicts, at::Tensor& accept_index, at::Tensor& accept_token_num,
                            const at::Tensor& candidates, const at::Tensor& retrive_index,
                            const at::Tensor& retrive_next_token, const at::Tensor& retrive_next_sibling,
                            const at::Tensor& target_predict) {
  const char* op = "verify_tree_greedy_cpu";
  const Longs token(candidates), index(retrive_index), child(retrive_next_token), sibling(retrive_next_sibling);
  const Longs target(target_predict);
  const std::int64_t batch = candidates.size(0), w = candidates.size(1), deepest = accept_index.size(1);
  write_integers(op, "predicts", predicts, [&](auto* predicted) {
    write_integers(op, "accept_index", accept_index, [&](auto* accepted) {
      write_integers(op, "accept_token_num", accept_token_num, [&](auto* count) {
        for (std::int64_t b = 0; b < batch; ++b) {
          const std::int64_t base = b * w;
          std::int64_t last = index[base], node = 0, depth = 0;
          accepted[b * deepest] = last;
          while (depth + 1 < deepest) {
            node = child[base + node];
            while (node != -1 && token[base + node] != target[last]) node = sibling[base + node];
            if (node == -1) break;
            predicted[last] = target[last];
            last = index[base + node];
            accepted[b * deepest + ++depth] = last;
          }
          predicted[last] = target[last];
          count[b] = depth;
        }
      });
    });
  });
}

// bonus_tokens[b] = the last accepted token of request b, whose accepted tokens fill a row of accept_stride.
void fill_bonus_tokens_cpu(const at::Tensor& accept_tokens, const at::Tensor& accept_lens, at::Tensor& bonus_tokens,
                           std::int64_t accept_stride) {
  const Longs tokens(accept_tokens), lengths(accept_lens);
  write_integers("fill_bonus_tokens_cpu", "bonus_tokens", bonus_tokens, [&](auto* out) {
    for (std::int64_t b = 0; b < lengths.size(); ++b) {
      TORCH_CHECK(lengths[b] >= 1 && lengths[b] <= accept_stride, "fill_bonus_tokens_cpu: ", lengths[b],
                  " accepted tokens in a row of ", accept_stride);
      out[b] = tokens[b * accept_stride + lengths[b] - 1];
    }
  });
}

// The cache locations of the accepted tokens, close together, in order.
void fill_accept_out_cache_loc_cpu(const at::Tensor& accept_index, const at::Tensor& out_cache_loc,
                                   at::Tensor& accept_out_cache_loc) {
  const Longs index(accept_index), location(out_cache_loc);
  write_integers("fill_accept_out_cache_loc_cpu", "accept_out_cache_loc", accept_out_cache_loc, [&](auto* out) {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < index.size(); ++i)
      if (index[i] >= 0) {
        TORCH_CHECK(index[i] < location.size() && kept < accept_out_cache_loc.numel(),
                    "fill_accept_out_cache_loc_cpu: index ", index[i], " of ", location.size(), " locations, ", kept,
                    " kept in a room of ", accept_out_cache_loc.numel());
        out[kept++] = location[index[i]];
      }
  });
}

// Each request's run of input_ids moves one to the left; its last place (or select_index) gets the new token.
void rotate_input_ids_cpu(at::Tensor& input_ids, const at::Tensor& start_loc, const at::Tensor& seq_lens,
                          const at::Tensor& topk_index, const std::optional<at::Tensor>& select_index) {
  const Longs start(start_loc), length(seq_lens), token(topk_index);
  const std::optional<Longs> select = select_index ? std::make_optional<Longs>(*select_index) : std::nullopt;
  write_integers("rotate_input_ids_cpu", "input_ids", input_ids, [&](auto* ids) {
    for (std::int64_t b = 0; b < length.size(); ++b) {
      if (length[b] <= 0) continue;
      auto* first = ids + start[b];
      std::copy(first + 1, first + length[b], first);
      ids[select ? (*select)[b] : start[b] + length[b] - 1] = token[b];
    }
  });
}

}  // namespace
}  // namespace turbospec

TORCH_LIBRARY_FRAGMENT(sgl_kernel, m) {
  m.def(
      "build_tree_kernel_efficient_cpu(Tensor parent_list, Tensor selected_index, Tensor verified_seq_len, "
      "Tensor(a!) tree_mask, Tensor(b!) positions, Tensor(c!) retrieve_index, Tensor(d!) retrieve_next_token, "
      "Tensor(e!) retrieve_next_sibling, int topk, int depth, int draft_token_num, int tree_mask_mode) -> ()");
  m.def(
      "reconstruct_indices_from_tree_mask(Tensor tree_mask, Tensor verified_seq_len, Tensor(a!) positions, "
      "Tensor(b!) retrive_index, Tensor(c!) retrive_next_token, Tensor(d!) retrive_next_sibling, int batch_size, "
      "int draft_token_num) -> ()");
  m.def(
      "verify_tree_greedy_cpu(Tensor(a!) predicts, Tensor(b!) accept_index, Tensor(c!) accept_token_num, "
      "Tensor candidates, Tensor retrive_index, Tensor retrive_next_token, Tensor retrive_next_sibling, "
      "Tensor target_predict) -> ()");
  m.def(
      "fill_bonus_tokens_cpu(Tensor accept_tokens, Tensor accept_lens, Tensor(a!) bonus_tokens, int accept_stride) "
      "-> ()");
  m.def(
      "fill_accept_out_cache_loc_cpu(Tensor accept_index, Tensor out_cache_loc, Tensor(a!) accept_out_cache_loc) "
      "-> ()");
  m.def(
      "rotate_input_ids_cpu(Tensor(a!) input_ids, Tensor start_loc, Tensor seq_lens, Tensor topk_index, "
      "Tensor? select_index=None) -> ()");
  m.impl("build_tree_kernel_efficient_cpu", c10::DispatchKey::CPU, &turbospec::build_tree_kernel_efficient_cpu);
  m.impl("reconstruct_indices_from_tree_mask", c10::DispatchKey::CPU, &turbospec::reconstruct_indices_from_tree_mask);
  m.impl("verify_tree_greedy_cpu", c10::DispatchKey::CPU, &turbospec::verify_tree_greedy_cpu);
  m.impl("fill_bonus_tokens_cpu", c10::DispatchKey::CPU, &turbospec::fill_bonus_tokens_cpu);
  m.impl("fill_accept_out_cache_loc_cpu", c10::DispatchKey::CPU, &turbospec::fill_accept_out_cache_loc_cpu);
  m.impl("rotate_input_ids_cpu", c10::DispatchKey::CPU, &turbospec::rotate_input_ids_cpu);
}
