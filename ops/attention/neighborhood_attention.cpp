#include <algorithm>

#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/rope/rotary.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t most_head_size = 1024;  // a lane keeps its part of several heads in registers

// The lanes that the template gives a head.
int64_t lanes_of_head(int64_t head_size) {
  return std::min<int64_t>(power_of_two_from(packs_of(head_size)), 32);
}

std::vector<Knobs> candidates(const Call& call) {
  if (call.on_host()) return {{{"threads", 1}, {"tokens", 64}}};
  std::vector<Knobs> list;
  for (const int64_t threads : {256, 128, 512})
    list.push_back(
        {{"threads", threads}, {"tokens", threads / lanes_of_head(call["q"].last_size())}});
  return list;
}

int64_t blocks(const Call& call, const Knobs& knobs) {
  const Tensor& q = call["q"];
  const int64_t tokens = value_of(knobs, "tokens", 1);
  return q.sizes[0] * q.sizes[1] * parts(q.sizes[2], tokens);
}

KernelOf kernel(std::string name, std::vector<std::string> pointers,
                const std::vector<std::string>& with_heads, std::function<Spec(const Call&)> spec) {
  std::vector<Argument> arguments;
  for (std::string& pointer : pointers) arguments.emplace_back(pointer, pointer);
  arguments.emplace_back("heads", "q.size1");
  arguments.emplace_back("tokens", "q.size2");
  arguments.emplace_back("scale", "scale");
  for (const std::string& tensor : with_heads) add_head_strides(arguments, tensor, tensor);
  return {.name = std::move(name),
          .source = "attention/neighborhood_attention.h",
          .spec = std::move(spec),
          .candidates = candidates,
          .blocks = blocks,
          .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
          .arguments = std::move(arguments)};
}

Spec spec_of(const Call& call, Spec gradients) {
  Spec spec = {{"x", call["q"].dtype},
               {"head_size", call["q"].last_size()},
               {"kernel_size", call.integer("kernel_size")},
               {"dilation", call.integer("dilation")}};
  spec.insert(spec.end(), gradients.begin(), gradients.end());
  spec.push_back({"align_bytes", int64_t{call.align_bytes()}});
  return spec;
}

void check(const Call& call) {
  require_dims(call, "q", 4, "[batch, heads, tokens, head size]");
  for (const char* const other : {"k", "v"}) {
    require_same_shape(call, "q", other);
    require_same_dtype(call, "q", other);
  }
  if (call["q"].last_size() > most_head_size)
    call.refuse("q", fmt::format("has heads of {}", call["q"].last_size()),
                fmt::format("at most {}", most_head_size));
  const int64_t size = call.integer("kernel_size");
  if (size < 1 || size % 2 == 0)
    call.refuse("kernel_size", fmt::format("is {}", size), "an odd number from 1 on");
  if (call.integer("dilation") < 1)
    call.refuse("dilation", fmt::format("is {}", call.integer("dilation")), "1 or more");
}

Output like_input(std::string name, std::string input, int bit = -1) {
  return {std::move(name),
          [input, bit](const Call& call) {
            return bit < 0 || call.wants_grad(bit) ? preserve(input) : empty();
          },
          [](const Call& call) { return call["q"].dtype; }};
}

Output of_windows(std::string name) {
  return {std::move(name), [](const Call&) { return rows_of("q"); },
          [](const Call& call) { return arithmetic(call["q"].dtype); }, false};
}

std::vector<Sample> samples(const Extent& e, std::vector<const char*> names) {
  std::vector<Sample> list;
  for (const char* const name : names)
    list.push_back({.input = name,
                    .shape = {e["batch"], e["inner"], e["rows"], e["size"]},
                    .heads_second = true});
  return list;
}

std::vector<ExampleSize> sizes() { return example_sizes({{"batch", 1, "sequences"}}); }

KernelOf of_keys() {
  KernelOf made = kernel(
      "NeighborhoodKeyBackward", {"dout", "q", "k", "v", "largest", "weight", "own", "dk", "dv"},
      {"dout", "q", "k", "v", "dk", "dv"}, [](const Call& call) {
        return spec_of(call, {{"dk", call.wants_grad(1)}, {"dv", call.wants_grad(2)}});
      });
  made.when = [](const Call& call) { return call.wants_grad(1) || call.wants_grad(2); };
  return made;
}

const Register neighborhood_attention{Op{
    .name = "neighborhood_attention",
    .doc = "attention of each token to kernel_size tokens around it, `dilation` apart",
    .inputs = {strided("q"), strided("k"), strided("v"), integer("kernel_size", 7),
               integer("dilation", 1), real("scale", "1.0")},
    .outputs = {like_input("out", "q"), of_windows("largest"), of_windows("weight")},
    .check = check,
    .kernels = {kernel("NeighborhoodForward", {"q", "k", "v", "out", "largest", "weight"},
                       {"q", "k", "v", "out"}, [](const Call& call) { return spec_of(call, {}); })},
    .gradient = {.backward = "neighborhood_attention_backward",
                 .saved = {"q", "k", "v", "largest", "weight"},
                 .of = {{"q", "dq"}, {"k", "dk"}, {"v", "dv"}}},
    .autocast = Autocast::lower,
    .autocast_inputs = {"q", "k", "v"},
    .example =
        [](const Extent& e) {
          return samples(e, {"q", "k", "v"});
        },
    .sizes = sizes(),
    .bench = {{"window-7", {{"batch", 2}, {"rows", 8192}, {"size", 64}, {"inner", 16}}}},
}};

const Register neighborhood_attention_backward{Op{
    .name = "neighborhood_attention_backward",
    .doc = "gradients of neighborhood_attention, its scores made again",
    .internal = true,
    .inputs = {strided("dout"), strided("q"), strided("k"), strided("v"), dense("largest"),
               dense("weight"), integer("kernel_size", 7), integer("dilation", 1),
               real("scale", "1.0"), mask("output_mask", 3)},
    .outputs = {like_input("dq", "q", 0), like_input("dk", "k", 1), like_input("dv", "v", 2)},
    .temporaries = {{"own",
                     [](const Call& call) {
                       return call["weight"].rows() * call["weight"].last_size() *
                              size_bytes(call["weight"].dtype);
                     }}},
    .check =
        [](const Call& call) {
          check(call);
          require_same_shape(call, "q", "dout");
          require_same_dtype(call, "q", "dout");
        },
    .kernels = {kernel("NeighborhoodQueryBackward",
                       {"dout", "q", "k", "v", "largest", "weight", "own", "dq"},
                       {"dout", "q", "k", "v", "dq"},
                       [](const Call& call) {
                         return spec_of(call, {{"dq", call.wants_grad(0)}});
                       }),
                of_keys()},
    .example =
        [](const Extent& e) {
          auto list = samples(e, {"dout", "q", "k", "v"});
          for (const char* const name : {"largest", "weight"})
            list.push_back(
                {.input = name, .shape = {e["batch"], e["inner"], e["rows"]}, .dtype = "f32"});
          list.push_back({.input = "kernel_size", .value = 7});
          list.push_back({.input = "dilation", .value = 1});
          list.push_back({.input = "scale", .value = 1});
          list.push_back({.input = "output_mask", .value = 7});
          return list;
        },
    .sizes = sizes(),
}};

}  // namespace
}  // namespace liger
