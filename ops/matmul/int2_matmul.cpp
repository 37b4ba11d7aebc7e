#include "base/parts.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t tile_columns = 64;  // as the template has them

void check_matmul(const Call& call) {
  require_dims(call, "a", 2, "[rows, K]");
  require_dims(call, "b", 2, "[K / 4, columns]");
  if (call["a"].sizes[1] == 4 * call["b"].sizes[0]) return;
  call.refuse("b", "has shape " + shape_text(call["b"]),
              "a quarter of the last size of 'a', " + shape_text(call["a"]) + ", as first size");
}

// A tile of few rows for a product of few, whose time is that of reading b.
std::vector<Knobs> tiles(const Call& call) {
  const auto of = [](int64_t threads, int64_t rows) -> Knobs {
    return {{"threads", threads}, {"tile_rows", rows}};
  };
  if (call.on_host()) return {of(1, 32)};
  if (call["a"].sizes[0] <= 16) return {of(256, 16)};
  if (call["a"].sizes[0] <= 64) return {of(256, 64), of(256, 16)};
  return {of(256, 128), of(256, 64)};
}

const Register int2_matmul{Op{
    .name = "int2_matmul",
    .doc = "c = a @ w in 32 bits, for w of -1 to 2: b[j, n] has w[j + i K / 4, n] + 1 in bits 2 i, "
           "2 i + 1",
    .inputs = {dense("a", {Dtype::i8}), dense("b", {Dtype::u8})},
    .outputs = {{"c",
                 [](const Call&) {
                   return sized({size_of("a", 0), size_of("b", 1)});
                 },
                 [](const Call&) { return Dtype::i32; }, false}},
    .check = check_matmul,
    .kernels = {{.name = "Int2Matmul",
                 .source = "matmul/int2_matmul.h",
                 .spec = [](const Call& call) -> Spec {
                   const Tensor &a = call["a"], &b = call["b"];
                   const bool words = !call.on_host();
                   return {{"a_words", words && a.align_bytes >= 4 && b.sizes[0] % 4 == 0},
                           {"b_words", words && b.align_bytes >= 4 && b.sizes[1] % 4 == 0}};
                 },
                 .candidates = tiles,
                 .blocks =
                     [](const Call& call, const Knobs& knobs) {
                       const int64_t tile_rows = value_of(knobs, "tile_rows", 1);
                       return parts(call["a"].sizes[0], tile_rows) *
                              parts(call["b"].sizes[1], tile_columns);
                     },
                 .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
                 .arguments = {"a",
                               "b",
                               "c",
                               {"rows", "a.size0"},
                               {"quarter", "b.size0"},
                               {"columns", "b.size1"}}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "a", .shape = {e["rows"], 4 * e["inner"]}, .dtype = "i8", .below = 128},
              {.input = "b", .shape = {e["inner"], e["size"]}, .dtype = "u8", .below = 256}};
    },
    // BitNet b1.58 2B: hidden 2560, inner 6912. Of few tokens: the time is that of reading b.
    .bench = {{"tokens-1", {{"rows", 1}, {"size", 6912}, {"inner", 640}}},
              {"tokens-64", {{"rows", 64}, {"size", 2560}, {"inner", 1728}}}},
}};

}  // namespace
}  // namespace liger
