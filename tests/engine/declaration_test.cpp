// What a declaration promises is checked: where a kernel's arguments stand, and an option's
// choices.
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/arguments.h"
#include "engine/plan.h"
#include "engine/registry.h"
#include "engine/report/describe.h"
#include "runtime/compile/compiler.h"

namespace liger {
namespace {

class Declaration : public testing::Test {
 protected:
  // The compiler's message; empty if the kernel compiles.
  std::string compile(KernelOf kernel) const {
    kernel.layout = layout_of(kernel);
    try {
      const Knobs knobs = candidates_of(kernel, call_).front();
      compiler_for(Backend::cpu).compile(unit_of(kernel, call_, knobs), target_);
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }

  const Target target_ = parse_target("cpu");
  const Op& op_ = op_named("rms_norm");
  const Call call_ = example_call(op_, Dtype::f32, {{"rows", 4}, {"size", 16}}, place_on(target_));
  const KernelOf& kernel_ = op_.kernels.front();
};

TEST_F(Declaration, arguments_in_the_order_of_the_members_compile) {
  EXPECT_EQ(compile(kernel_), "");
}

TEST_F(Declaration, arguments_in_another_order_do_not_compile) {
  KernelOf kernel = kernel_;
  std::swap(kernel.arguments[0], kernel.arguments[2]);
  EXPECT_NE(compile(kernel).find("declared otherwise at its member y"), std::string::npos);
}

TEST_F(Declaration, an_argument_too_few_or_too_many_does_not_compile) {
  const std::string wanted = "declared fewer or more than its members";
  KernelOf kernel = kernel_;
  kernel.arguments.pop_back();
  EXPECT_NE(compile(kernel).find(wanted), std::string::npos);
  kernel = kernel_;
  kernel.arguments.emplace_back("hidden_stride", "x.stride");
  EXPECT_NE(compile(kernel).find("hidden_stride"), std::string::npos);
}

TEST_F(Declaration, every_gradient_of_the_registry_fits) {
  for (const Op& op : registry()) EXPECT_EQ(gradient_problem(op), "");
}

TEST_F(Declaration, a_gradient_that_names_what_is_not_there_is_told) {
  const auto told = [&](auto change) {
    Op op = op_;
    change(op.gradient);
    return gradient_problem(op);
  };
  const auto has = [](const std::string& text, std::string_view part) {
    return text.find("rms_norm") != std::string::npos && text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(told([](Gradient& one) { one.saved.push_back("xx"); }), "`saved` names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.backward = "no_such"; }), "names 'no_such'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.of[0].input = "xx"; }), "`of` names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.of[0].gradient = "xx"; }), "`of` names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.of[0].through = {"xx"}; }), "`of` names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.of[0].added_to = "xx"; }), "`of` names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.of[0].added_to = "rstd"; }), "`of` names 'rstd'"));
  EXPECT_TRUE(has(told([](Gradient& one) {
                    one.of[0].added_to = "y";
                    one.of[0].gradient = "xx";
                  }),
                  "`of` names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.needs_grad_flag = "xx"; }), "names 'xx'"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.saved.pop_back(); }), "wanted are"));
  EXPECT_TRUE(has(told([](Gradient& one) { one.backward = "rms_norm"; }), "names 'dx'"));
}

TEST_F(Declaration, parts_that_do_not_fit_their_op_are_told) {
  const auto told = [](auto change) {
    Op op = op_named("gated_mlp");
    change(op);
    return gradient_problem(op);
  };
  const auto has = [](const std::string& text, std::string_view part) {
    return text.find("op gated_mlp: ") == 0 && text.find(part) != std::string::npos;
  };
  EXPECT_EQ(told([](Op&) {}), "");
  EXPECT_TRUE(has(told([](Op& op) { op.gradient.kept_by = "swiglu"; }),
                  "'swiglu' must take (x, gate_weight, up_weight, down_weight, activation, "
                  "gate_multiplier, down_multiplier) and give (gate, up)"));
  EXPECT_TRUE(has(told([](Op& op) { op.gradient.kept_by = ""; }), "'' must take (x, "));
  EXPECT_TRUE(has(told([](Op& op) { op.gradient.finished_by = "gated_mlp_kept"; }),
                  "down_multiplier, gate, up) and give (y)"));
  EXPECT_TRUE(has(told([](Op& op) { op.gradient.finished_by = ""; }), "'' must take"));
  EXPECT_TRUE(has(told([](Op& op) { op.outputs[1].differentiable = true; }), "has a history"));
}

TEST_F(Declaration, a_number_that_is_none_of_the_choices_is_refused_with_all_of_them) {
  Call call = call_;
  const int mode = op_.input_index("casting_mode");
  for (const int64_t number : {0, 1, 2}) {
    call.scalar(mode).integer = number;
    EXPECT_NO_THROW(check_call(call));
  }
  for (const int64_t number : {-1, 3}) {
    call.scalar(mode).integer = number;
    try {
      check_call(call);
      FAIL() << number;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      EXPECT_NE(text.find("rms_norm"), std::string::npos) << text;
      EXPECT_NE(text.find("casting_mode"), std::string::npos) << text;
      EXPECT_NE(text.find("is " + std::to_string(number)), std::string::npos) << text;
      EXPECT_NE(text.find("0 (llama), 1 (gemma), 2 (none)"), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace liger
