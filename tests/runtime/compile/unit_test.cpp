// The text of a unit, and the expansion of its includes over the real templates.
#include "runtime/compile/unit.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "base/error.h"

namespace liger {
namespace {

TEST(SpecTest, fields_are_named_in_their_order) {
  const Spec spec = {
      {"x", Dtype::bf16}, {"hidden", int64_t{4096}}, {"unit_offset", false}, {"low", int64_t{-1}}};
  EXPECT_EQ(initialiser(spec), ".x = Dtype::bf16, .hidden = 4096, .unit_offset = false, .low = -1");
  EXPECT_EQ(initialiser({}), "");
}

TEST(SpecTest, field_may_be_the_spec_of_a_part) {
  const Spec part = {{"x", Dtype::f32}, {"threads", int64_t{32}}};
  const Spec spec = {{"each", part}, {"cluster", int64_t{8}}};
  EXPECT_EQ(initialiser(spec), ".each = {.x = Dtype::f32, .threads = 32}, .cluster = 8");
}

TEST(UnitTest, text_is_the_few_lines_that_a_person_would_write) {
  const Spec spec = {{"x", Dtype::bf16}, {"hidden", int64_t{4096}}};
  const Unit unit = make_unit({"device/target.h", "RmsNormForward"}, spec);
  EXPECT_EQ(unit.kernel, "RmsNormForward");
  EXPECT_EQ(unit.text,
            "#include \"device/target.h\"\n"
            "using namespace liger;\n"
            "constexpr RmsNormForwardSpec spec = {\n"
            "    .x = Dtype::bf16,\n"
            "    .hidden = 4096};\n"
            "LIGER_ENTRY(RmsNormForward, spec)\n");
  EXPECT_NE(unit.expanded.find("#line 1 \"templates/device/target.h\"\n"), std::string::npos);
  EXPECT_NE(unit.expanded.find("#line 2 \"unit\"\nusing namespace liger;"), std::string::npos);
  EXPECT_EQ(unit.expanded, expand_includes(unit.text));
  EXPECT_EQ(make_unit({"device/target.h", "RmsNormForward"}, spec).expanded, unit.expanded);
}

TEST(UnitTest, layout_says_where_each_member_stands) {
  const std::string layout = layout_of("Scale", {{"map", 128}, {"x"}, {"strides[1]"}});
  EXPECT_EQ(layout,
            "LIGER_MEMBER(Scale, spec, map, 0, 128)\n"
            "LIGER_MEMBER(Scale, spec, x, 128, 8)\n"
            "LIGER_MEMBER(Scale, spec, strides[1], 136, 8)\n"
            "LIGER_SIZE(Scale, spec, 144)\n");
  const Unit unit = make_unit({"device/target.h", "Scale", layout}, {});
  EXPECT_NE(unit.text.find(layout + "LIGER_ENTRY(Scale, spec)\n"), std::string::npos);
  EXPECT_EQ(unit.expanded, expand_includes(unit.text));
}

TEST(UnitTest, function_that_is_launched_bears_the_name_of_the_kernel) {
  EXPECT_EQ(entry_symbol("RmsNormForward"), "liger_RmsNormForward");
}

TEST(UnitTest, file_that_is_not_embedded_is_named) {
  try {
    make_unit({"no_such.h", "RmsNormForward"}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("no_such.h"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("device/target.h"), std::string::npos);
  }
}

TEST(UnitTest, expansion_of_each_template_is_self_contained) {
  for (const EmbeddedFile& file : embedded_templates()) {
    const std::string include = "#include \"" + std::string(file.name) + "\"\n";
    const std::string expanded = expand_includes(include);
    std::istringstream lines(expanded);
    std::set<std::string> begun;
    for (std::string line; std::getline(lines, line);) {
      EXPECT_FALSE(line.starts_with("#include \"")) << file.name << ": " << line;
      EXPECT_FALSE(line.starts_with("#pragma once")) << file.name;
      const bool again = line.starts_with("#line 1 \"") && !begun.insert(line).second;
      EXPECT_FALSE(again) << file.name << " expands twice: " << line;
    }
    EXPECT_EQ(expand_includes(include + include).size(), expanded.size() + 1) << file.name;
  }
}

TEST(UnitTest, include_with_angle_brackets_and_words_in_comments_stay) {
  const std::string text = "#include <cmath>\n// #include \"no_such.h\"\nint x;";
  EXPECT_EQ(expand_includes(text), "#line 1 \"unit\"\n" + text + "\n");
}

TEST(DtypeTest, names_and_sizes) {
  EXPECT_EQ(name_of(Dtype::boolean), "boolean");
  EXPECT_EQ(size_bytes(Dtype::bf16), 2);
  EXPECT_EQ(size_bytes(Dtype::i64), 8);
  EXPECT_EQ(name_of(Dtype::u8), "u8");
  EXPECT_EQ(size_bytes(Dtype::i8), 1);
  EXPECT_TRUE(is_float(Dtype::f16));
  EXPECT_FALSE(is_float(Dtype::i32));
}

}  // namespace
}  // namespace liger
