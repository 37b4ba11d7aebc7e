// The record of what a kernel found wrong: the host acts on whole ones only, and once, and names
// the op, the argument, the place, the value and what is allowed.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/text.h"
#include "engine/arguments.h"
#include "engine/plan.h"
#include "engine/registry.h"
#include "runtime/compile/compiler.h"

namespace liger {
namespace {

constexpr int64_t tokens = 4;
constexpr int64_t hidden = 8;
constexpr int64_t table_rows = 6;

// What `raise_fault` says; empty for nothing.
std::string raised(Fault& fault) {
  try {
    raise_fault(fault);
    return {};
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    return error.what();
  }
}

TEST(Fault, is_raised_once_it_is_published_and_then_cleared) {
  const Op& op = op_named("cross_entropy");
  const FaultOf check{"target", "ignore_index"};
  Fault fault;
  EXPECT_EQ(raised(fault), "");

  fault.state = Fault::taken;
  fault.place = 7;
  EXPECT_EQ(raised(fault), "") << "its fields are not all written yet";
  EXPECT_EQ(fault.state, Fault::taken);

  fault.blamed = reinterpret_cast<int64_t>(&op);
  fault.check = reinterpret_cast<int64_t>(&check);
  fault.value = 99;
  fault.limit = 64;
  fault.state = Fault::published;
  EXPECT_EQ(raised(fault),
            "liger_jit::cross_entropy: element 7 of argument 'target' is 99; allowed: 0 to 63 and "
            "ignore_index");
  EXPECT_EQ(fault.state, Fault::empty);
  EXPECT_EQ(raised(fault), "");
}

TEST(Fault, of_a_backward_names_the_op_that_the_user_called) {
  const FaultOf check{"x"};
  Fault fault;
  fault.blamed = reinterpret_cast<int64_t>(&op_named("rms_norm_backward"));
  fault.check = reinterpret_cast<int64_t>(&check);
  fault.limit = 1;
  fault.state = Fault::published;
  EXPECT_EQ(raised(fault), "liger_jit::rms_norm: element 0 of argument 'x' is 0; allowed: 0 to 0");
}

// An op of which nobody knows but its declaration: its kernel checks `indices`.
struct LookUp {
  LookUp(std::string name, std::string besides) {
    op.name = std::move(name);
    op.inputs = {rows("x"),
                 dense("table"),
                 dense("indices", {Dtype::i64}),
                 written(dense("score", {Dtype::f32})),
                 written(dense("reference", {Dtype::f32})),
                 optional(dense("places", {Dtype::i64})),
                 integer("padding", -1)};
    op.kernels = {
        {.name = "LinearReference",
         .source = "linear_loss/scaled_exp.h",
         .spec = [](const Call& call) -> Spec {
           return {{"hidden", call["x"].last_size()}, {"classes", call["table"].sizes[0]}};
         },
         .candidates = [](const Call&) -> std::vector<Knobs> {
           return {{{"threads", 1}, {"rows", 1}}};
         },
         .blocks = [](const Call& call, const Knobs&) { return call["x"].rows(); },
         .arguments = {{"input", "x"},
                       {"weight", "table"},
                       {"target", "indices"},
                       "score",
                       "reference",
                       {"fault", FaultOf{"indices", std::move(besides), "places"}},
                       {"rows", "x.rows"},
                       {"input_stride", "x.stride"},
                       {"ignore_index", "padding"}}}};
    op.kernels.front().layout = layout_of(op.kernels.front());
  }

  Call call(bool with_places = false) const {
    Call call(op, place_on(parse_target("cpu")));
    const std::vector<int64_t> shapes[] = {
        {tokens, hidden}, {table_rows, hidden}, {tokens}, {tokens}, {tokens}, {tokens}};
    const Dtype dtypes[] = {Dtype::bf16, Dtype::bf16, Dtype::i64,
                            Dtype::f32,  Dtype::f32,  Dtype::i64};
    for (int input = 0; input < (with_places ? 6 : 5); ++input) {
      Tensor& tensor = call.tensor(input);
      tensor.defined = true;
      tensor.dtype = dtypes[input];
      tensor.dims = static_cast<int>(shapes[input].size());
      std::copy(shapes[input].begin(), shapes[input].end(), tensor.sizes);
      tensor.make_contiguous();
    }
    call.scalar(6).integer = -1;
    return call;
  }

  void run(std::vector<int64_t> indices, Fault& fault, const Op& blamed,
           std::vector<int64_t> places = {}) {
    std::vector<uint16_t> x(tokens * hidden), table(table_rows * hidden);
    std::vector<float> score(tokens), reference(tokens);
    void* pointers[all_slots] = {x.data(),         table.data(),
                                 indices.data(),   score.data(),
                                 reference.data(), places.empty() ? nullptr : places.data()};
    pointers[fault_slot] = &fault;
    pointers[blamed_slot] = const_cast<Op*>(&blamed);
    const auto plan = make_plan(call(!places.empty()), device(Backend::cpu, 0), nullptr);
    EXPECT_TRUE(plan->records_faults);
    launch(*plan, pointers, nullptr);
  }

  Op op;
};

TEST(Fault, is_told_of_any_op_in_the_words_of_its_declaration) {
  LookUp embedding("embedding", "");
  Fault fault;
  embedding.run({0, 5, 1, 2}, fault, embedding.op);
  EXPECT_EQ(raised(fault), "");
  embedding.run({0, 1, 6, 2}, fault, embedding.op);
  EXPECT_EQ(raised(fault),
            "liger_jit::embedding: element 2 of argument 'indices' is 6; allowed: 0 to 5");
  LookUp padded("padded", "padding");
  padded.run({-1, -2, -1, 0}, fault, padded.op);
  EXPECT_EQ(
      raised(fault),
      "liger_jit::padded: element 1 of argument 'indices' is -2; allowed: 0 to 5 and padding");
}

TEST(Fault, of_values_that_were_picked_names_the_place_they_were_picked_from) {
  LookUp look_up("look_up", "padding");
  Fault fault;
  look_up.run({0, 1, 6, 2}, fault, look_up.op, {10, 20, 30, 40});
  EXPECT_EQ(
      raised(fault),
      "liger_jit::look_up: element 30 of argument 'indices' is 6; allowed: 0 to 5 and padding");
}

TEST(Fault, names_the_first_that_took_the_record_and_the_op_that_was_called) {
  LookUp first("first", "padding"), second("second", "");
  Op composite;
  composite.name = "composite";
  Fault fault;
  first.run({0, 0, 0, 77}, fault, composite);
  second.run({88, 0, 0, 0}, fault, second.op);
  EXPECT_EQ(raised(fault),
            "liger_jit::composite: element 3 of argument 'indices' is 77; allowed: 0 to 5 and "
            "padding");
  EXPECT_EQ(raised(fault), "") << "the second found the record taken";
  second.run({88, 0, 0, 0}, fault, second.op);
  EXPECT_NE(raised(fault).find("liger_jit::second: element 0 "), std::string::npos);
}

TEST(Fault, unit_holds_nothing_of_the_process_and_asserts_the_record) {
  const LookUp one("one", ""), other("other", "padding");
  const auto unit = [](const LookUp& look_up) {
    const KernelOf& kernel = look_up.op.kernels.front();
    const Call call = look_up.call();
    return unit_of(kernel, call, candidates_of(kernel, call).front());
  };
  EXPECT_EQ(unit(one).expanded, unit(other).expanded);
  EXPECT_NE(unit(one).text.find(fault_layout()), std::string::npos);

  const Op& plain = op_named("rms_norm");
  EXPECT_EQ(plain.kernels.front().layout.find("LIGER_FAULT"), std::string::npos);
}

TEST(Fault, a_kernel_with_another_record_does_not_compile) {
  LookUp look_up("look_up", "");
  KernelOf kernel = look_up.op.kernels.front();
  const Call call = look_up.call();
  const auto compile = [&]() -> std::string {
    try {
      compiler_for(Backend::cpu)
          .compile(unit_of(kernel, call, candidates_of(kernel, call).front()), parse_target("cpu"));
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(compile(), "");
  const std::string right = kernel.layout;
  kernel.layout =
      replace_all(right, "LIGER_FAULT_FIELD(value, 32)", "LIGER_FAULT_FIELD(value, 40)");
  EXPECT_NE(compile().find("another place for value"), std::string::npos);
  kernel.layout = replace_all(right, "LIGER_FAULT_BYTES(48)", "LIGER_FAULT_BYTES(56)");
  EXPECT_NE(compile().find("a fault record of another size"), std::string::npos);
  kernel.layout = replace_all(right, "fault.blamed, 48", "fault.blamed, 56");
  EXPECT_NE(compile().find("declared otherwise at its member fault.blamed"), std::string::npos);
}

TEST(FaultDeathTest, of_an_input_that_is_none_is_a_defect_of_the_declaration) {
  LookUp look_up("look_up", "no_such_option");
  EXPECT_DEATH(launch_of(look_up.op.kernels.front(), look_up.call(), {}), "no_such_option");
}

TEST(OpenDevices, are_those_that_were_asked_for) {
  const Device& host = device(Backend::cpu, 0);
  EXPECT_EQ(open_devices(Backend::cpu), std::vector<Device*>{&device(Backend::cpu, 0)});
  EXPECT_EQ(&host, open_devices(Backend::cpu).front());
}

}  // namespace
}  // namespace liger
