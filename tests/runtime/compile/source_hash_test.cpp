// A unit that was met before is known by what it is made of, without its text.
#include "runtime/compile/source_hash.h"

#include <gtest/gtest.h>

#include <set>

#include "base/counters.h"
#include "runtime/kernels.h"

namespace liger {
namespace {

Spec column_sum(int64_t columns) {
  return {{"partial", Dtype::f32},       {"out", Dtype::f32},    {"second_out", Dtype::f32},
          {"third_out", Dtype::f32},     {"columns", columns},   {"second_columns", int64_t{0}},
          {"third_columns", int64_t{0}}, {"groups", int64_t{32}}};
}

TEST(SourceHash, is_that_of_the_expanded_source_and_is_made_once) {
  const Hash128 wanted =
      hash128(make_unit({"norm/column_sum.h", "ColumnSum"}, column_sum(24)).expanded);
  const uint64_t before = counters().units_expanded;
  EXPECT_EQ(source_hash({"norm/column_sum.h", "ColumnSum"}, column_sum(24)), wanted);
  EXPECT_EQ(counters().units_expanded, before + 1);
  EXPECT_EQ(source_hash({"norm/column_sum.h", "ColumnSum"}, column_sum(24)), wanted);
  EXPECT_EQ(counters().units_expanded, before + 1);
  EXPECT_NE(source_hash({"norm/column_sum.h", "ColumnSum"}, column_sum(25)), wanted);
}

TEST(SourceHash, whatever_differs_in_a_spec_differs_in_its_bytes) {
  const std::vector<Spec> specs = {
      {},
      {{"x", Dtype::f32}},
      {{"y", Dtype::f32}},
      {{"x", Dtype::bf16}},
      {{"x", false}},
      {{"x", int64_t{0}}},
      {{"x", int64_t{1}}},
      {{"x", Spec{}}},
      {{"x", Spec{{"y", int64_t{1}}}}},
      {{"x", Spec{}}, {"y", int64_t{1}}},
      {{"x", int64_t{1}}, {"y", int64_t{1}}},
  };
  std::set<std::string> keys;
  for (const Spec& spec : specs) {
    std::string key;
    append_bytes(key, spec);
    EXPECT_TRUE(keys.insert(key).second) << initialiser(spec);
  }
}

TEST(SourceHash, a_kernel_that_is_loaded_is_found_without_its_source) {
  Device& device = liger::device(Backend::cpu, 0);
  const Spec spec = column_sum(40);
  EXPECT_EQ(kernel({"norm/column_sum.h", "ColumnSum"}, spec, device, false), nullptr);
  const Kernel* loaded = kernel({"norm/column_sum.h", "ColumnSum"}, spec, device);
  const uint64_t before = counters().units_expanded;
  EXPECT_EQ(kernel({"norm/column_sum.h", "ColumnSum"}, spec, device), loaded);
  EXPECT_EQ(kernel({"norm/column_sum.h", "ColumnSum"}, spec, device, false), loaded);
  EXPECT_EQ(counters().units_expanded, before);
  EXPECT_EQ(kernel(make_unit({"norm/column_sum.h", "ColumnSum"}, spec), device), loaded);
}

}  // namespace
}  // namespace liger
