// Examples and bench cases have as many sizes as an op's declaration names.
#include "engine/extent.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/registry.h"
#include "engine/report/describe.h"

namespace liger {
namespace {

using nlohmann::json;

// Five sizes, of which two are its own.
Op routed() {
  Op op;
  op.name = "routed";
  op.inputs = {rows("x"), dense("weight")};
  op.sizes = example_sizes({{"experts", 8, "experts of a layer"}, {"chosen", 2, "of each token"}});
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "x", .shape = {e["rows"] * e["chosen"], e["size"]}},
            {.input = "weight", .shape = {e["experts"], e["size"], e["inner"]}}};
  };
  op.bench = {{"plain", {{"rows", 64}, {"size", 32}}},
              {.name = "many-experts",
               .extent = {{"rows", 64}, {"size", 32}, {"experts", 128}},
               .options = {{"scoring", "sigmoid"}, {"scale", 2.5}},
               .frozen = {"weight"},
               .ignored_first = 0.25,
               .skew = 10}};
  return op;
}

json shapes(const Extent& asked) {
  json found = json::array();
  for (const json& argument : json::parse(describe_example(routed(), Dtype::f32, asked)))
    found.push_back(argument["shape"]);
  return found;
}

TEST(Extents, sizes_are_those_asked_for_and_the_usual_ones) {
  EXPECT_EQ(shapes({{"rows", 3}, {"size", 5}, {"inner", 7}, {"experts", 11}, {"chosen", 1}}),
            json::parse("[[3, 5], [11, 5, 7]]"));
  EXPECT_EQ(shapes({{"chosen", 4}, {"rows", 3}, {"size", 5}}),
            json::parse("[[12, 5], [8, 5, 64]]"));
  const Op op = routed();
  const Call call = example_call(op, Dtype::f32, {{"rows", 3}, {"experts", 2}}, {});
  EXPECT_EQ(call["x"].sizes[0], 6);
  EXPECT_EQ(call["weight"].sizes[0], 2);
}

TEST(Extents, a_size_that_the_op_does_not_have_is_refused_with_all_that_it_has) {
  try {
    shapes({{"rows", 3}, {"heads", 4}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    EXPECT_EQ(std::string(error.what()),
              "liger_jit::routed: its example has no size 'heads' (given: 4); allowed: rows, size, "
              "inner, experts, chosen");
  }
}

TEST(Extents, cases_and_sizes_of_every_op_are_told) {
  registry().push_back(routed());
  const json op = json::parse(describe_ops()).back();
  registry().pop_back();
  EXPECT_EQ(op["cases"][1],
            json::parse(R"({"name": "many-experts", "dtype": "bf16", "rows": 64, "size": 32,
                            "inner": 64, "experts": 128, "chosen": 2,
                            "options": {"scoring": "sigmoid", "scale": 2.5},
                            "frozen": ["weight"], "ignored_first": 0.25, "skew": 10})"));
  EXPECT_EQ(op["cases"][0]["experts"], 8);
  EXPECT_EQ(op["cases"][0]["options"], json::object());
  EXPECT_TRUE(op["cases"][0]["frozen"].empty());
  EXPECT_EQ(op["sizes"][3], json::parse(R"({"name": "experts", "usual": 8,
                                            "meaning": "experts of a layer"})"));
  EXPECT_EQ(op["sizes"].size(), 5u);
}

TEST(ExtentsDeathTest, an_example_that_asks_for_a_size_of_another_op_ends) {
  Op op = routed();
  op.sizes = example_sizes();
  EXPECT_DEATH(describe_example(op, Dtype::f32, {}), "chosen|experts");
}

}  // namespace
}  // namespace liger
