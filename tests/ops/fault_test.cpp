// The record of what a kernel found wrong: the host acts on whole ones only, and once.
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/plan.h"
#include "ops/registry.h"

namespace liger {
namespace {

TEST(Fault, is_raised_once_it_is_published_and_then_cleared) {
  const Op& op = op_named("cross_entropy");
  Fault fault;
  EXPECT_NO_THROW(raise_fault(op, fault));

  fault.state = Fault::taken;
  fault.row = 7;
  EXPECT_NO_THROW(raise_fault(op, fault)) << "its fields are not all written yet";
  EXPECT_EQ(fault.state, Fault::taken);

  fault.value = 99;
  fault.limit = 64;
  fault.state = Fault::published;
  try {
    raise_fault(op, fault);
    FAIL() << "nothing was raised";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("target[7] is 99"), std::string::npos) << text;
    EXPECT_NE(text.find("0 to 63"), std::string::npos) << text;
  }
  EXPECT_EQ(fault.state, Fault::empty);
  EXPECT_NO_THROW(raise_fault(op, fault));
}

TEST(OpenDevices, are_those_that_were_asked_for) {
  const Device& host = device(Backend::cpu, 0);
  EXPECT_EQ(open_devices(Backend::cpu), std::vector<Device*>{&device(Backend::cpu, 0)});
  EXPECT_EQ(&host, open_devices(Backend::cpu).front());
}

}  // namespace
}  // namespace liger
