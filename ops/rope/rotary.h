// What ops with a rotary embedding share in their declarations.
#pragma once

#include "engine/op.h"

namespace liger {

// The tensors of heads, by their names in an op or in its backward.
struct TurnedHeads {
  std::string q;
  std::string k;
  std::string q_out;
  std::string k_out;
  bool inverse;
};

// An op that turns the heads of q and of an optional k, and its backward, which turns gradients
// back. Both have the tables and the options.
struct RotaryForm {
  std::string name;
  std::string doc;
  std::string kernel;
  std::string source;
  std::vector<Input> tables;
  std::vector<Input> options;
  // Raises unless the tables and the options fit the heads.
  std::function<void(const Call&, const TurnedHeads&)> check;
  std::function<int64_t(const Call&)> rotary;     // columns that turn
  std::function<bool(const Call&)> interleaved;   // neighbours are pairs
  std::function<Spec(const Call&)> table_fields;  // of the kernel's spec, before its knobs
  std::vector<Argument> table_arguments;          // of the kernel, after those of the heads
  // What an example has beside heads [1, heads, rows, size].
  std::function<std::vector<Sample>(const Extent&)> table_samples;
  std::vector<BenchCase> bench = {};
};
Op turning(const RotaryForm& form);
Op turning_back(const RotaryForm& form);

// Raises unless q and k fit one another: [batch, heads, tokens, head size], the second optional.
void check_heads(const Call& call, std::string_view q, std::string_view k);
// Raises unless a table [..., 1 or batch, tokens, angles], of `dims` dimensions, fits the heads of
// q, and as many columns turn as a head has, by `columns_of_angle` for each angle.
void check_table(const Call& call, std::string_view table, std::string_view q, int dims = 3,
                 int columns_of_angle = 1);
// The last of that: an even number from 2 to the head size.
void check_rotary_size(const Call& call, std::string_view table, std::string_view q,
                       int columns_of_angle = 1);
// Raises unless q, k, cos and sin fit one another, the last two [1 or batch, tokens, rotary size].
void check_rotary(const Call& call, std::string_view q, std::string_view k);

// Arguments for the strides of batch, head and token of an input or an output, for the member
// `HeadStrides MEMBER_strides`. Of one that is absent they mean nothing.
void add_head_strides(std::vector<Argument>& arguments, const std::string& member,
                      const std::string& tensor);
// Arguments for the strides of a table in all dims but the last, for the member
// `long long TABLE_strides[]`; that of a batch of one, in `batch_dim`, is 0.
void add_table_strides(std::vector<Argument>& arguments, const std::string& table,
                       int batch_dim = 0);
// Those of cos, then of sin.
void add_angle_strides(std::vector<Argument>& arguments, int batch_dim = 0);

// Samples of cos and sin, tables of that shape.
std::vector<Sample> angle_samples(const std::vector<int64_t>& shape);

}  // namespace liger
