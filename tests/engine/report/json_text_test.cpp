#include "engine/report/json_text.h"

#include <gtest/gtest.h>

namespace liger {
namespace {

TEST(JsonText, bytes_that_are_no_text_are_replaced_and_the_rest_stays) {
  const nlohmann::json json = {{"path", "caf\xe9"}, {"word", "caf\u00e9"}};
  EXPECT_EQ(text_of(json), "{\"path\":\"caf\ufffd\",\"word\":\"caf\u00e9\"}");
}

}  // namespace
}  // namespace liger
