#include "base/shared_library.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/process.h"
#include "base/text.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

TEST(SharedLibrary, opens_the_first_that_loads_and_tells_where_it_looked) {
  const SharedLibrary library({"libliger-no-such.so.1", "libm.so.6", "libc.so.6"});
  ASSERT_TRUE(library.found());
  EXPECT_NE(library.path().find("/libm.so"), std::string::npos) << library.path();
  EXPECT_NE(library.trace().find("libliger-no-such.so.1: "), std::string::npos);
  EXPECT_EQ(library.trace().find("libc.so.6"), std::string::npos);
  const auto cosine = library.function<double(double)>("cos");
  ASSERT_NE(cosine, nullptr);
  EXPECT_EQ(cosine(0.0), 1.0);
  EXPECT_EQ(library.symbol("liger_no_such_symbol"), nullptr);
}

TEST(SharedLibrary, absent_library_is_no_exception) {
  const SharedLibrary library({"libliger-no-such.so.1", "/no/such/file.so"});
  EXPECT_FALSE(library.found());
  EXPECT_EQ(library.symbol("cos"), nullptr);
  EXPECT_NE(library.trace().find("/no/such/file.so: "), std::string::npos);
}

TEST(SharedLibrary, own_folder_holds_this_code) {
  EXPECT_TRUE(std::filesystem::is_directory(own_folder())) << own_folder();
}

TEST(BuildIdentity, is_the_build_id_that_readelf_shows) {
  if (!find_program({"readelf"})) GTEST_SKIP() << "no readelf";
  const SharedLibrary library({"libm.so.6"});
  const std::string notes = run_process({"readelf", "-n", library.path()}).output;
  const size_t at = notes.find("Build ID: ");
  if (at == std::string::npos) GTEST_SKIP() << "libm has no build id";
  const std::string expected = notes.substr(at + 10, notes.find('\n', at) - at - 10);
  EXPECT_EQ(build_identity(library.path()), "build-id:" + expected);
  EXPECT_EQ(build_identity("libm.so.6"), "build-id:" + expected) << "by the loader's name";
}

TEST(BuildIdentity, without_a_build_id_the_bytes_count) {
  const TemporaryFolder folder;
  const std::string path = folder / "library";
  write_plainly(path, "one");
  const std::string one = build_identity(path);
  EXPECT_TRUE(one.starts_with("bytes:3:")) << one;
  write_plainly(path, "other");
  EXPECT_NE(build_identity(path), one);
  write_plainly(folder / "copy", "one");
  EXPECT_EQ(build_identity(folder / "copy"), one) << "the path does not count";
}

TEST(BuildIdentity, damaged_library_does_no_harm) {
  const TemporaryFolder folder;
  const SharedLibrary library({"libm.so.6"});
  const std::string head = read_plainly(library.path()).substr(0, 2048);
  for (size_t size = 1; size < head.size(); size += 13) {
    const std::string path = folder / std::to_string(size);
    write_plainly(path, std::string_view(head).substr(0, size));
    EXPECT_FALSE(build_identity(path).empty());
  }
  for (size_t byte = 0; byte < 1024; ++byte) {
    std::string damaged = head;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 0xff);
    const std::string path = folder / fmt::format("flip{}", byte);
    write_plainly(path, damaged);
    EXPECT_FALSE(build_identity(path).empty());
  }
}

TEST(BuildIdentity, library_that_cannot_be_read_is_an_error) {
  EXPECT_THROW(build_identity("/no/such/file.so"), Error);
  EXPECT_THROW(build_identity("libliger-no-such.so.1"), Error);
}

}  // namespace
}  // namespace liger
