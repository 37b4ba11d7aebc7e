// The shape of an output as a value, made from names and sizes of inputs. What a size is nobody
// asks, so it may be a tracer's symbol.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace liger {

// A size, from sizes of inputs: size_of("x", 0) / 2. Quotients are rounded down; the op's check
// refuses what does not divide.
class Size {
 public:
  Size(int64_t number) : terms_{{Kind::number, number, {}}} {}

  // Whether it depends on no input.
  bool constant() const { return terms_.size() == 1 && terms_[0].kind == Kind::number; }

  // As int64_t or as a symbol. `size_of_input(input, dim)` gives those of inputs.
  template <class Int, class SizeOfInput>
  Int value(const SizeOfInput& size_of_input) const;

 private:
  enum class Kind : uint8_t { number, of_input, sum, difference, product, quotient };
  struct Term {
    Kind kind;
    int64_t number = 0;  // or the dim
    std::string input = {};
  };
  Size(std::string input, int dim) : terms_{{Kind::of_input, dim, std::move(input)}} {}
  static Size joined(Size left, const Size& right, Kind kind);

  std::vector<Term> terms_;  // an operation follows its two operands

  friend Size size_of(std::string input, int dim);
  friend Size operator+(Size left, const Size& right);
  friend Size operator-(Size left, const Size& right);
  friend Size operator*(Size left, const Size& right);
  friend Size operator/(Size left, const Size& right);
};
Size size_of(std::string input, int dim);  // of a required tensor; -1: the last
Size operator+(Size left, const Size& right);
Size operator-(Size left, const Size& right);
Size operator*(Size left, const Size& right);
Size operator/(Size left, const Size& right);

struct Shape {
  std::string of = {};          // the input with whose sizes it begins; empty: with none
  int but = 0;                  // so many of the last ones are left out
  std::vector<Size> then = {};  // and these follow
  bool in_order = false;        // its dims lie in memory in the order of the input's
  bool is_expanded = false;     // all its elements are one in memory

  bool whole() const { return !of.empty() && but == 0 && then.empty(); }  // all sizes of an input
};
Shape like(std::string input);      // same sizes, contiguous
Shape preserve(std::string input);  // same sizes, same order of dims in memory: of a `strided` one
Shape expanded(std::string input);  // same sizes, and one element in memory for all
Shape rows_of(std::string input);   // all sizes but the last
Shape sized(std::vector<Size> sizes);
Shape followed_by(Shape shape, std::vector<Size> sizes);
Shape linear(std::string input,
             std::string weight);  // rows_of(input), then the weight's first size
Shape scalar();                    // []
Shape empty();                     // [0]

template <class Int, class SizeOfInput>
Int Size::value(const SizeOfInput& size_of_input) const {
  std::vector<Int> values;
  for (const Term& term : terms_) {
    if (term.kind == Kind::number) {
      values.push_back(Int(term.number));
      continue;
    }
    if (term.kind == Kind::of_input) {
      values.push_back(size_of_input(term.input, static_cast<int>(term.number)));
      continue;
    }
    const Int right = std::move(values.back());
    values.pop_back();
    Int& left = values.back();
    if (term.kind == Kind::sum) left = left + right;
    if (term.kind == Kind::difference) left = left - right;
    if (term.kind == Kind::product) left = left * right;
    if (term.kind == Kind::quotient) left = left / right;
  }
  return values.back();
}

}  // namespace liger
