// What an op is: a value. All that others need (schema, dispatch, shapes, gradient, key, tuning,
// command line, tests, bench) is read from it.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/call.h"
#include "engine/extent.h"
#include "engine/shape.h"
#include "runtime/compile/spec.h"
#include "runtime/compile/unit.h"

namespace liger {

enum class InputKind : uint8_t { tensor, optional_tensor, integer, real, flag, mask };

// What a kernel can read in place. Anything else is copied once, before the launch.
enum class Layout : uint8_t {
  rows,     // [..., N]: last dim contiguous, leading dims collapse to one stride
  dense,    // contiguous
  strided,  // last dim contiguous, any other strides
  unread,   // any: kernels read none of it, and it stands for its gradient alone
};

struct Input {
  std::string name;
  InputKind kind = InputKind::tensor;
  Layout layout = Layout::rows;
  std::vector<Dtype> dtypes;  // allowed; empty: floating point
  bool written = false;       // Tensor(a!)
  std::string
      default_text;  // in schema spelling; empty: none. Counts only if all later inputs have one
  int mask_length = 0;
  std::vector<std::string> choices;  // of an integer that counts them; empty: any number
  int batch_dim = -1;  // of what each token has for all its heads: the dim of 1 or batch, before
                       // that of the tokens; -1: of anything else

  bool is_tensor() const { return kind == InputKind::tensor || kind == InputKind::optional_tensor; }
};

Input rows(std::string name);                                   // a required tensor read by rows
Input dense(std::string name, std::vector<Dtype> dtypes = {});  // a required contiguous tensor
Input strided(std::string name);                  // a required tensor with free strides
Input unread(std::string name);                   // a tensor that no kernel reads
Input optional(Input input);                      // the same, may be None
Input written(Input input);                       // the same, overwritten by the op
Input of_tokens(Input input, int batch_dim = 0);  // the same, with sizes 1 or batch, then tokens,
                                                  // from that dim on
Input integer(std::string name, int64_t default_value);
Input real(std::string name, std::string default_text);
// One of these, in the schema as its number from 0 on. Other numbers are refused for all ops alike.
Input choice(std::string name, std::vector<std::string> choices, std::string_view default_choice);
Input flag(std::string name, bool default_value = false);
Input mask(std::string name, int length);  // bool[length]

struct Output {
  std::string name;
  std::function<Shape(const Call&)>
      shape;  // may look at flags and at which tensors are there, at no size
  std::function<Dtype(const Call&)> dtype;
  bool differentiable = true;
};

struct Temporary {
  std::string name;
  std::function<int64_t(const Call&)> size_bytes;
};

// How a kernel's tiles of a tensor are made, an input or an output; see TiledMatrix. It is [rows,
// columns], with more dims in front rows below rows, or with `stacked` [matrices, rows, columns].
struct TensorMapOf {
  std::string tensor;
  int tile_rows;
  int tile_columns;
  bool stacked = false;
};

// Of a kernel that checks the values of an integer input: what its InputFault tells the host, who
// blames the op that the user called. A part of a composite has the input by the composite's name.
struct FaultOf {
  std::string input;
  std::string besides = {};  // the input whose value is allowed too, as ignore_index; empty: none
  // The optional input that has the place of each value, where some were picked out; empty: none.
  std::string places = {};
};

// Where the value of a kernel's member comes from. A name stands for a tensor's pointer, or a
// scalar input's value (integers as int64, reals as double); `x.rows`, `x.stride` (of rows),
// `x.size1`, `x.stride0` for what they say of an input or an output. A function gives any other
// integer.
using Source = std::variant<std::string, std::function<int64_t(const Call&)>, TensorMapOf, FaultOf>;

// A member of the kernel's struct and its source: eight bytes, the 128 of a TensorMap, or the 32 of
// an InputFault. A unit whose struct has other members, or in another order, does not compile.
struct Argument {
  std::string member;
  Source source;

  Argument(const char* member_and_source) : Argument(member_and_source, member_and_source) {}
  Argument(std::string member, const char* source)
      : Argument(std::move(member), std::string(source)) {}
  Argument(std::string member, Source source)
      : member(std::move(member)), source(std::move(source)) {}
  int bytes() const;
};

struct Knob {
  std::string name;
  int64_t value;
};
using Knobs = std::vector<Knob>;
int64_t value_of(const Knobs& knobs, std::string_view name, int64_t otherwise);

struct KernelOf {
  std::string name;                       // of the kernel's struct
  std::string source;                     // in templates/
  std::function<bool(const Call&)> when;  // empty: always
  std::function<Spec(const Call&)> spec;  // all fields but the knobs, in order
  std::function<std::vector<Knobs>(const Call&)>
      candidates;  // the first is the pick without tuning
  std::function<int64_t(const Call&, const Knobs&)> blocks;
  std::function<int64_t(const Knobs&)> threads;  // of a block, on a GPU; empty: threads * rows
  std::function<int(const Call&, const Knobs&)>
      shared_bytes;                 // of a block, beyond what the kernel declares; empty: none
  std::vector<Argument> arguments;  // the struct's members, in order
  std::string layout = {};          // of the members; made when the op is registered

  KernelTemplate made_from() const { return {source, name, layout}; }
};

struct GradientOf {
  std::string input;
  std::string gradient = {};              // output of the backward, or of the forward
  std::vector<std::string> through = {};  // outputs that depend on it; empty: all differentiable
  // The output to which the input is added. What arrives there is the input's gradient; nobody
  // computes or copies it. With a `gradient`: only where input and output have one shape and
  // dtype; elsewhere `gradient` is computed.
  std::string added_to = {};
};

// How an op's gradient is found. Either another op of the registry computes it:
//   backward(gradients of differentiable outputs, saved, scalar inputs, bool[n] mask) -> n
//   gradients
// where a gradient that nothing arrived for is None if that input is optional, else zeros. Or the
// forward already has (`ready`): the gradient of an input is an output of the forward, times the
// gradient that arrives at the first output.
struct Gradient {
  std::string backward;
  // The same, but it may overwrite saved tensors (its inputs that are `written`): called where
  // nobody can see them any more. Empty: there is none.
  std::string donating_backward;
  std::vector<std::string> saved;  // inputs or outputs
  // The op in two parts, which take its place where a node is built: what is saved is then saved
  // before the rest is run, and a checkpoint that runs it again stops there.
  //   kept_by(inputs of the op) -> its saved outputs
  //   finished_by(inputs of the op, its saved outputs) -> its other outputs
  // Empty: the op is one part.
  std::string kept_by, finished_by;
  std::vector<GradientOf> of;  // an input with no gradient at any of its outputs has none
  // The flag or mask input that the autograd layer sets where a gradient is needed: for the
  // gradients themselves (`ready`), or for what the backward reads of the forward. It is no input
  // of the backward.
  std::string needs_grad_flag;
  // `ready`: what the forward multiplies its gradients with, so that their type holds them; they
  // are divided by it when the factor arrives. Empty: 1. May look at dtypes and scalars, at no
  // size.
  std::function<double(const Call&)> unit;
  bool exists() const { return !of.empty(); }
  bool ready() const { return exists() && backward.empty(); }
};

enum class Autocast : uint8_t {
  none,   // runs in the dtypes it is given
  lower,  // tensors listed below are cast to autocast's dtype
};

// How a call may be split into calls on parts of its tensors, one a device. Split are the tensors
// read by rows or with heads, and what a forward made for its backward; others go whole to each
// part. An output that shrinks with them is split as they are, any other is a sum over the parts.
enum class Sharding : uint8_t {
  whole,     // not at all
  rows,      // along any dim but the last
  elements,  // along any dim
  heads,     // [batch, heads, tokens, size] along any dim but the last; what is `of_tokens` along
             // those dims that it has
  tokens,    // [batch, heads, tokens, size] along batch and tokens
};

struct Sample {  // one argument of an example
  std::string input;
  std::vector<int64_t> shape;  // of a tensor
  std::string dtype;           // empty: the dtype that the caller asks for
  int64_t below = 0;           // integer tensors: values are in [0, below)
  double value = 0;            // of a scalar
  bool none = false;
  // [batch, heads, tokens, head size] with a token's heads side by side in memory, as a projection
  // makes them.
  bool heads_second = false;
  bool probabilities = false;  // each row is above zero and sums to one
};

struct BenchCase {
  std::string name;
  Extent extent;              // what it does not name is as usual
  Dtype dtype = Dtype::bf16;  // of the tensors whose dtype the example leaves open
  // What the function for people takes beside the example's tensors: {"divergence", "kl"}.
  std::vector<std::pair<std::string, std::variant<std::string, double>>> options = {};
  std::vector<std::string> frozen = {};  // inputs whose gradient nobody asks for
  double ignored_first = 0;              // the first labels of each sequence count nothing
  // How many times as often as the others the lower half of an integer tensor's values comes.
  double skew = 1;
};

struct Op {
  std::string name;
  std::string doc;
  bool internal = false;  // not called by users: a backward, or a part of a composite
  std::string part_of;    // the op that users call, where errors name that one; empty: itself
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::vector<Temporary> temporaries;
  std::function<void(const Call&)> check;  // raises through Call::refuse
  std::vector<KernelOf> kernels;           // launched in order; none: a composite of torch_bindings
  Gradient gradient;
  Sharding sharding = Sharding::whole;
  Autocast autocast = Autocast::none;
  std::vector<std::string> autocast_inputs;
  std::function<std::vector<Sample>(const Extent&)> example;  // inputs left out take their defaults
  std::vector<ExampleSize> sizes = example_sizes();           // what the example may be asked for
  std::vector<BenchCase> bench;

  int input_index(std::string_view name) const;   // -1 when absent
  int output_index(std::string_view name) const;  // -1 when absent
  std::string schema() const;                     // name(inputs) -> (outputs)

  // All sizes of its example: those asked for, and the usual ones. Raises Error(invalid_argument)
  // for one that it does not have.
  Extent extent(const Extent& asked) const;
};

}  // namespace liger
