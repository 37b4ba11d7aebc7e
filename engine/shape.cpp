#include "engine/shape.h"

namespace liger {

Size Size::joined(Size left, const Size& right, Kind kind) {
  left.terms_.insert(left.terms_.end(), right.terms_.begin(), right.terms_.end());
  left.terms_.push_back({kind});
  return left;
}

Size size_of(std::string input, int dim) { return {std::move(input), dim}; }
Size operator+(Size left, const Size& right) {
  return Size::joined(std::move(left), right, Size::Kind::sum);
}
Size operator-(Size left, const Size& right) {
  return Size::joined(std::move(left), right, Size::Kind::difference);
}
Size operator*(Size left, const Size& right) {
  return Size::joined(std::move(left), right, Size::Kind::product);
}
Size operator/(Size left, const Size& right) {
  return Size::joined(std::move(left), right, Size::Kind::quotient);
}

Shape like(std::string input) { return {.of = std::move(input)}; }
Shape preserve(std::string input) { return {.of = std::move(input), .in_order = true}; }
Shape expanded(std::string input) { return {.of = std::move(input), .is_expanded = true}; }
Shape rows_of(std::string input) { return {.of = std::move(input), .but = 1}; }
Shape sized(std::vector<Size> sizes) { return {.then = std::move(sizes)}; }
Shape followed_by(Shape shape, std::vector<Size> sizes) {
  shape.then.insert(shape.then.end(), sizes.begin(), sizes.end());
  return shape;
}
Shape linear(std::string input, std::string weight) {
  return followed_by(rows_of(std::move(input)), {size_of(std::move(weight), 0)});
}
Shape scalar() { return sized({}); }
Shape empty() { return sized({0}); }

}  // namespace liger
