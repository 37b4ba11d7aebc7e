// Shapes of outputs are made from sizes of inputs, which may be numbers or a tracer's symbols.
#include "engine/shape.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/output_layout.h"
#include "engine/plan.h"

namespace liger {
namespace {

// A size that nobody can ask for its value.
struct Symbol {
  std::string text;
  Symbol() = default;
  Symbol(int64_t number) : text(std::to_string(number)) {}
  explicit Symbol(std::string text) : text(std::move(text)) {}
  Symbol joined(char with, const Symbol& other) const {
    return Symbol("(" + text + " " + with + " " + other.text + ")");
  }
  Symbol operator+(const Symbol& other) const { return joined('+', other); }
  Symbol operator-(const Symbol& other) const { return joined('-', other); }
  Symbol operator*(const Symbol& other) const { return joined('*', other); }
  Symbol operator/(const Symbol& other) const { return joined('/', other); }
};
struct NothingIsCertain {
  static bool above(const Symbol&, const Symbol&) { return false; }
  static bool equal(const Symbol&, int64_t) { return false; }
};

Output output_of(Shape shape) {
  return {.name = "y",
          .shape = [shape = std::move(shape)](const Call&) { return shape; },
          .dtype = [](const Call&) { return Dtype::f32; }};
}

class ShapeTest : public testing::Test {
 protected:
  void SetUp() override {
    op_.name = "shapes";
    op_.inputs = {rows("x"), dense("table")};
  }

  Call call() const {
    Call call(op_, {});
    const std::vector<int64_t> shapes[] = {{6, 3, 5}, {7, 4}};
    for (int input = 0; input < 2; ++input) {
      Tensor& tensor = call.tensor(input);
      tensor.defined = true;
      tensor.dims = static_cast<int>(shapes[input].size());
      std::copy(shapes[input].begin(), shapes[input].end(), tensor.sizes);
      tensor.make_contiguous();
    }
    return call;
  }

  std::vector<int64_t> numbers(Shape shape) {
    op_.outputs = {output_of(std::move(shape))};
    const OutputPlan plan = plan_outputs(call()).front();
    EXPECT_TRUE(plan.strides.empty()) << "contiguous";
    return plan.sizes;
  }

  std::vector<std::string> symbols(Shape shape) const {
    const auto extents = extents_of<Symbol, NothingIsCertain>(
        call(), output_of(std::move(shape)), [](const std::string& input) {
          Extents<Symbol> of;
          of.dims = input == "x" ? 3 : 2;
          for (int dim = 0; dim < of.dims; ++dim)
            of.sizes[dim] = Symbol(input + std::to_string(dim));
          return of;
        });
    std::vector<std::string> texts;
    for (int dim = 0; dim < extents.dims; ++dim) texts.push_back(extents.sizes[dim].text);
    return texts;
  }

  std::string refused(Shape shape) {
    try {
      numbers(std::move(shape));
      return {};
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      return error.what();
    }
  }

  Op op_;
};

using Numbers = std::vector<int64_t>;
using Symbols = std::vector<std::string>;

TEST_F(ShapeTest, a_loss_of_pairs_has_half_of_the_batch) {
  const Shape shape = sized({size_of("x", 0) / 2});
  EXPECT_EQ(numbers(shape), (Numbers{3}));
  EXPECT_EQ(symbols(shape), (Symbols{"(x0 / 2)"}));
}

TEST_F(ShapeTest, sizes_are_added_subtracted_multiplied_and_divided_as_they_are_written) {
  const Size x = size_of("x", 0), last = size_of("x", -1), classes = size_of("table", 0);
  const Shape shape = sized({x * last - 1, x - (last - 1), (x + classes) * 2 / last, 8});
  EXPECT_EQ(numbers(shape), (Numbers{29, 2, 5, 8}));
  EXPECT_EQ(symbols(shape),
            (Symbols{"((x0 * x2) - 1)", "(x0 - (x2 - 1))", "(((x0 + table0) * 2) / x2)", "8"}));
}

TEST_F(ShapeTest, sizes_follow_those_of_an_input) {
  EXPECT_EQ(numbers(followed_by(like("x"), {size_of("table", -1)})), (Numbers{6, 3, 5, 4}));
  EXPECT_EQ(symbols(followed_by(rows_of("x"), {2})), (Symbols{"x0", "x1", "2"}));
  EXPECT_EQ(numbers(linear("x", "table")), (Numbers{6, 3, 7}));
  EXPECT_EQ(numbers(like("x")), (Numbers{6, 3, 5}));
  EXPECT_EQ(numbers(rows_of("x")), (Numbers{6, 3}));
  EXPECT_EQ(numbers(scalar()), Numbers{});
  EXPECT_EQ(numbers(empty()), (Numbers{0}));
}

TEST_F(ShapeTest, only_an_output_as_large_as_an_input_has_its_rows) {
  EXPECT_TRUE(has_rows(op_, like("x")));
  EXPECT_FALSE(has_rows(op_, like("table"))) << "read as a whole";
  EXPECT_FALSE(has_rows(op_, rows_of("x")));
  EXPECT_FALSE(has_rows(op_, followed_by(like("x"), {2})));
  EXPECT_FALSE(has_rows(op_, sized({size_of("x", 0)})));
  EXPECT_TRUE(has_rows(op_, sized({size_of("x", 0), size_of("x", 1)})));
  EXPECT_TRUE(has_rows(op_, followed_by(rows_of("x"), {size_of("table", 0)})));
}

TEST_F(ShapeTest, a_dim_that_is_not_there_is_refused_by_name) {
  EXPECT_EQ(refused(sized({size_of("x", 3)})),
            "liger_jit::shapes: argument 'x' has 3 dimensions; allowed: 4 or more");
  EXPECT_EQ(refused(sized({size_of("table", -3)})),
            "liger_jit::shapes: argument 'table' has 2 dimensions; allowed: 3 or more");
  EXPECT_EQ(refused(followed_by(like("x"), {1, 2, 3})),
            "liger_jit::shapes: output 'y' would have 6 dimensions; allowed: up to 5");
}

}  // namespace
}  // namespace liger
