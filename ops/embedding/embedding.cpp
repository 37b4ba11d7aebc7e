#include <algorithm>

#include "base/parts.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t list_tokens = 1024;              // of a list, which a block sorts
constexpr int64_t long_run = 32;                   // tokens of one id that its block adds as well
constexpr int64_t most_tokens = int64_t{1} << 21;  // on a GPU: what is known of a list is on chip

int64_t lists_of(int64_t tokens) { return parts(tokens, list_tokens); }

void check_embedding(const Call& call) {
  require_dims(call, "weight", 2, "[ids, size]");
  const int64_t tokens = call["indices"].count();
  if (!call.on_host() && tokens > most_tokens) {
    call.refuse("indices", "has " + std::to_string(tokens) + " elements",
                "up to " + std::to_string(most_tokens) + " on a GPU");
  }
}

// What the address of every row of that tensor and of those of the output is a multiple of.
int64_t align_of_copy(const Call& call) {
  if (call.on_host()) return 2;
  const int64_t row_bytes = call["weight"].last_size() * size_bytes(call["weight"].dtype);
  const int64_t of_row = row_bytes & -row_bytes;
  return std::min<int64_t>(call.align_bytes(), of_row);
}

const Register embedding{Op{
    .name = "embedding",
    .doc = "y[...] = weight[indices[...]]; the row of padding_idx gets no gradient (-1: all do)",
    .inputs = {rows("weight"), dense("indices", {Dtype::i64, Dtype::i32}),
               integer("padding_idx", -1)},
    .outputs = {{"y",
                 [](const Call&) { return followed_by(like("indices"), {size_of("weight", 1)}); },
                 [](const Call& call) { return call["weight"].dtype; }}},
    .check = check_embedding,
    .kernels = {{.name = "Embedding",
                 .source = "embedding/embedding.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"weight", call["weight"].dtype},
                           {"index", call["indices"].dtype},
                           {"width", call["weight"].last_size()},
                           {"align_bytes", align_of_copy(call)},
                           {"hold", holds(call, "weight", 1)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return row_candidates(call, call["weight"].last_size(),
                                             holds(call, "weight", 1) ? 1 : 0);
                     },
                 .blocks =
                     [](const Call& call, const Knobs& knobs) {
                       return row_blocks(call["indices"].count(), knobs);
                     },
                 .arguments = {"weight",
                               "indices",
                               "y",
                               {"fault", FaultOf{"indices"}},
                               {"tokens", [](const Call& call) { return call["indices"].count(); }},
                               {"weight_rows", "weight.rows"},
                               {"weight_stride", "weight.stride"}}}},
    .gradient = {.backward = "embedding_backward",
                 .saved = {"weight", "indices"},
                 .of = {{"weight", "dweight"}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "weight", .shape = {e["ids"], e["size"]}},
              {.input = "indices", .shape = {e["rows"]}, .dtype = "i64", .below = e["ids"]}};
    },
    .sizes = example_sizes({{"ids", 11, "rows of a table"}}),
    .bench = {{"vocabulary-32000", {{"rows", 16384}, {"size", 4096}, {"ids", 32000}}},
              {"vocabulary-128256", {{"rows", 16384}, {"size", 2048}, {"ids", 128256}}},
              {"vocabulary-151936", {{"rows", 8192}, {"size", 4096}, {"ids", 151936}}}},
}};

// Both kernels see as many tokens as dy has rows.
int64_t tokens_of(const Call& call) { return call["dy"].rows(); }

// Wide keys hold any id; the others 2^32 / list_tokens, of which one stands for none.
bool wide_keys(const Call& call) {
  return call.on_host() || call["weight"].rows() >= (int64_t{1} << 32) / list_tokens;
}

int64_t keys_of(const Call& call) {
  return call.on_host() ? tokens_of(call) : lists_of(tokens_of(call)) * list_tokens;
}
int64_t key_bytes(const Call& call) { return keys_of(call) * (wide_keys(call) ? 8 : 4); }

constexpr int64_t run_bytes = 16;

// Of the weight, that a block owns: enough for some 32 KB to be written by it, but so few that what
// it finds of them fits on the chip, and that there are blocks for all multiprocessors. No bit
// depends on it.
int64_t rows_of_block(const Call& call) {
  if (call.on_host()) return 64;
  const Tensor& weight = call["weight"];
  const int64_t row_bytes = weight.last_size() * size_bytes(weight.dtype);
  const int64_t room = (int64_t{32} << 10) / run_bytes;
  const int64_t share = weight.rows() / (8 * call.place().multiprocessors);
  const int64_t most = std::min({int64_t{32}, (int64_t{32} << 10) / row_bytes,
                                 room / std::max<int64_t>(lists_of(tokens_of(call)), 1), share});
  return std::max<int64_t>(most, 1);
}

Spec shared_spec(const Call& call) {
  return {{"wide", wide_keys(call)},
          {"list_tokens", list_tokens},
          {"long_run", long_run},
          {"width", call["dy"].last_size()},
          {"align_bytes", int64_t{call.align_bytes()}}};
}

KernelOf sort_kernel() {
  return {.name = "EmbeddingSort",
          .source = "embedding/embedding_gradient.h",
          .when = [](const Call& call) { return tokens_of(call) > 0; },
          .spec = [](const Call& call) -> Spec {
            Spec spec = {{"index", call["indices"].dtype}, {"dy", call["dy"].dtype}};
            for (auto& field : shared_spec(call)) spec.push_back(std::move(field));
            return spec;
          },
          .candidates = [](const Call& call) -> std::vector<Knobs> {
            return {{{"threads", call.on_host() ? 1 : list_tokens}}};
          },
          .blocks = [](const Call& call,
                       const Knobs&) { return call.on_host() ? 1 : lists_of(tokens_of(call)); },
          .arguments = {"indices",
                        "dy",
                        "keys",
                        "spare_keys",
                        "run_sums",
                        {"tokens", tokens_of},
                        {"weight_rows", "weight.rows"},
                        "padding_idx",
                        {"dy_stride", "dy.stride"}}};
}

KernelOf gradient_kernel() {
  return {.name = "EmbeddingGradient",
          .source = "embedding/embedding_gradient.h",
          .spec = [](const Call& call) -> Spec {
            Spec spec = {{"dy", call["dy"].dtype}};
            for (auto& field : shared_spec(call)) spec.push_back(std::move(field));
            return spec;
          },
          .candidates =
              [](const Call& call) { return partial_candidates(call, call["dy"].last_size(), 1); },
          .blocks =
              [](const Call& call, const Knobs&) {
                const int64_t of_block = rows_of_block(call);
                return parts(call["weight"].rows(), of_block);
              },
          .shared_bytes =
              [](const Call& call, const Knobs&) {
                const int64_t lists = lists_of(tokens_of(call));
                if (call.on_host()) return 0;
                // Compilers load a run before they know whether there is one more.
                constexpr int64_t one_more = run_bytes;
                return static_cast<int>(lists * (rows_of_block(call) * run_bytes + 8) + one_more);
              },
          .arguments = {"dy",
                        "keys",
                        "run_sums",
                        "dweight",
                        {"tokens", tokens_of},
                        {"weight_rows", "weight.rows"},
                        {"rows_of_block", rows_of_block},
                        {"dy_stride", "dy.stride"}}};
}

const Register embedding_backward{Op{
    .name = "embedding_backward",
    .doc = "dweight[v] = sum of the rows of dy whose index is v, zeros where there is none and at "
           "padding_idx; tokens are sorted, so it is the same in each run",
    .internal = true,
    .inputs = {rows("dy"), rows("weight"), dense("indices", {Dtype::i64, Dtype::i32}),
               integer("padding_idx", -1), mask("output_mask", 1)},
    .outputs = {{"dweight", [](const Call&) { return like("weight"); },
                 [](const Call& call) { return call["weight"].dtype; }}},
    .temporaries = {{"keys", key_bytes},
                    {"spare_keys",
                     [](const Call& call) { return call.on_host() ? key_bytes(call) : 0; }},
                    {"run_sums",
                     [](const Call& call) -> int64_t {
                       if (call.on_host()) return 0;
                       return keys_of(call) / long_run * padded_columns(call["dy"].last_size()) *
                              size_bytes(arithmetic(call["dy"].dtype));
                     }}},
    .check =
        [](const Call& call) {
          check_embedding(call);
          require_same_dtype(call, "weight", "dy");
          const Tensor &dy = call["dy"], &weight = call["weight"];
          if (dy.last_size() != weight.last_size() || dy.rows() != call["indices"].count()) {
            call.refuse("dy", "has shape " + shape_text(dy),
                        "the shape of 'indices' and then " + std::to_string(weight.last_size()));
          }
        },
    .kernels = {sort_kernel(), gradient_kernel()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["ids"], e["size"]}},
              {.input = "indices", .shape = {e["rows"]}, .dtype = "i64", .below = e["ids"]},
              {.input = "padding_idx", .value = -1},
              {.input = "output_mask", .value = 1}};
    },
    .sizes = example_sizes({{"ids", 11, "rows of a table"}}),
}};

}  // namespace
}  // namespace liger
