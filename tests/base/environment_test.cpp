#include "base/environment.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

using Values = std::map<std::string, std::string>;

Environment parse(const Values& values) {
  return parse_environment([&](const char* name) -> const char* {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : found->second.c_str();
  });
}

class EnvironmentParser : public testing::Test {
 protected:
  EnvironmentParser() {
    fs::create_directory(folder_ / "home");
    fs::create_directory(folder_ / "temp");
    write_plainly(folder_ / "file", "");
  }

  std::string per_uid_folder() const {
    return folder_ / ("temp/liger-" + std::to_string(geteuid()));
  }

  const TemporaryFolder folder_;
  const std::string home_ = folder_ / "home";
  const std::string temp_ = folder_ / "temp";
};

TEST_F(EnvironmentParser, defaults) {
  const Environment result = parse({{"HOME", home_}});
  EXPECT_EQ(result.cache_folder, home_ + "/.cache/liger");
  EXPECT_TRUE(result.readonly_cache_layers.empty());
  EXPECT_EQ(result.cache_size_bytes, 1u << 30);
  EXPECT_EQ(result.autotune, AutotuneMode::first_run);
  EXPECT_EQ(result.cache_mode, CacheMode::readwrite);
  EXPECT_FALSE(result.remote);
  EXPECT_EQ(result.log, LogFormat::off);
  EXPECT_EQ(result.host_compiler, "");
  EXPECT_EQ(result.compile_threads, 0);
  EXPECT_FALSE(fs::exists(home_ + "/.cache")) << "parsing makes nothing";
}

TEST_F(EnvironmentParser, every_value_is_taken) {
  const Environment result = parse({{"HOME", home_},
                                    {"LIGER_JIT_CACHE", "/some/where"},
                                    {"LIGER_JIT_CACHE_SIZE", "500M"},
                                    {"LIGER_JIT_AUTOTUNE", "full"},
                                    {"LIGER_JIT_CACHE_MODE", "offline"},
                                    {"LIGER_JIT_REMOTE", "redis://server/team"},
                                    {"LIGER_JIT_LOG", "1"},
                                    {"LIGER_JIT_CXX", "clang++"},
                                    {"LIGER_JIT_NVRTC", "/lib/n.so"},
                                    {"LIGER_JIT_HIP", "/lib/h.so"},
                                    {"LIGER_JIT_THREADS", "12"}});
  EXPECT_EQ(result.cache_folder, "/some/where");
  EXPECT_EQ(result.cache_size_bytes, 500u << 20);
  EXPECT_EQ(result.autotune, AutotuneMode::full);
  EXPECT_EQ(result.cache_mode, CacheMode::offline);
  EXPECT_EQ(result.remote->shown(), "redis://server:6379/team");
  EXPECT_EQ(result.log, LogFormat::text);
  EXPECT_EQ(result.host_compiler, "clang++");
  EXPECT_EQ(result.nvrtc_library, "/lib/n.so");
  EXPECT_EQ(result.hip_library, "/lib/h.so");
  EXPECT_EQ(result.compile_threads, 12);
}

TEST_F(EnvironmentParser, cache_off_or_empty_is_memory_only) {
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_CACHE", "off"}}).cache_folder, "");
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_CACHE", ""}}).cache_folder, "");
}

TEST_F(EnvironmentParser, cache_folder_is_made_absolute) {
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_CACHE", "~"}}).cache_folder, home_);
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_CACHE", "~/k"}}).cache_folder, home_ + "/k");
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_CACHE", "k"}}).cache_folder,
            fs::current_path().string() + "/k");
  EXPECT_THROW(parse({{"HOME", home_}, {"LIGER_JIT_CACHE", "~somebody/k"}}), Error);
}

TEST_F(EnvironmentParser, xdg_comes_before_home_unless_it_is_relative_or_unwritable) {
  const std::string xdg = folder_ / "xdg";
  EXPECT_EQ(parse({{"HOME", home_}, {"XDG_CACHE_HOME", xdg}}).cache_folder, xdg + "/liger");
  EXPECT_EQ(parse({{"HOME", home_}, {"XDG_CACHE_HOME", "relative"}}).cache_folder,
            home_ + "/.cache/liger");
  EXPECT_EQ(parse({{"HOME", home_}, {"XDG_CACHE_HOME", folder_ / "file/xdg"}}).cache_folder,
            home_ + "/.cache/liger");
}

TEST_F(EnvironmentParser, without_a_usable_home_the_cache_goes_to_a_private_temporary_folder) {
  for (const std::string& home : {std::string(), folder_ / "absent", folder_ / "file"}) {
    EXPECT_EQ(parse({{"HOME", home}, {"TMPDIR", temp_}}).cache_folder, per_uid_folder()) << home;
  }
  EXPECT_EQ(parse({{"TMPDIR", temp_}, {"LIGER_JIT_CACHE", "~/k"}}).cache_folder, per_uid_folder());
}

TEST_F(EnvironmentParser, temporary_folder_made_by_another_user_is_not_used) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a folder away";
  fs::create_directory(per_uid_folder());
  ASSERT_EQ(::chown(per_uid_folder().c_str(), 12345, 12345), 0);
  EXPECT_EQ(parse({{"TMPDIR", temp_}}).cache_folder, "");
}

TEST_F(EnvironmentParser, no_folder_at_all_is_memory_only_with_a_warning) {
  EXPECT_EQ(parse({{"TMPDIR", folder_ / "file"}}).cache_folder, "");
  bool warned = false;
  for (const std::string& warning : recent_warnings()) {
    warned |= warning.find("set LIGER_JIT_CACHE") != std::string::npos;
  }
  EXPECT_TRUE(warned);
}

TEST_F(EnvironmentParser, cache_mode_off_uses_no_folder_and_no_server) {
  const Environment result = parse({{"HOME", home_},
                                    {"LIGER_JIT_CACHE_MODE", "off"},
                                    {"LIGER_JIT_CACHE", "/some/where"},
                                    {"LIGER_JIT_CACHE_READONLY", "/site"},
                                    {"LIGER_JIT_REMOTE", "redis://server"}});
  EXPECT_EQ(result.cache_folder, "");
  EXPECT_TRUE(result.readonly_cache_layers.empty());
  EXPECT_FALSE(result.remote);
}

TEST_F(EnvironmentParser, log_is_text_json_or_a_file) {
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_LOG", "0"}}).log, LogFormat::off);
  const Environment json = parse({{"HOME", home_}, {"LIGER_JIT_LOG", "json"}});
  EXPECT_EQ(json.log, LogFormat::json);
  EXPECT_EQ(json.log_file, "");
  const Environment file = parse({{"HOME", home_}, {"LIGER_JIT_LOG", "~/run.ndjson"}});
  EXPECT_EQ(file.log, LogFormat::json);
  EXPECT_EQ(file.log_file, home_ + "/run.ndjson");
}

TEST_F(EnvironmentParser, readonly_folders_are_separated_by_colons) {
  const Environment result =
      parse({{"HOME", home_}, {"LIGER_JIT_CACHE_READONLY", ":/site/a::~/b:"}});
  EXPECT_EQ(result.readonly_cache_layers, (std::vector<std::string>{"/site/a", home_ + "/b"}));
}

TEST_F(EnvironmentParser, sizes_have_units_of_1024_and_off_is_no_limit) {
  EXPECT_EQ(parse_size_bytes("12"), 12u);
  EXPECT_EQ(parse_size_bytes("64K"), 64u << 10);
  EXPECT_EQ(parse_size_bytes("1.5g"), 3u << 29);
  EXPECT_EQ(parse_size_bytes("0"), 0u);
  for (const char* wrong :
       {"", "G", "-1M", "1 G", "1GB", "5000000T", "nan", "inf", "1e3", "0x10"}) {
    EXPECT_FALSE(parse_size_bytes(wrong)) << wrong;
  }
  EXPECT_EQ(parse({{"HOME", home_}, {"LIGER_JIT_CACHE_SIZE", "off"}}).cache_size_bytes, 0u);
}

TEST_F(EnvironmentParser, wrong_value_raises_an_error_with_name_value_and_what_is_allowed) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"LIGER_JIT_AUTOTUNE", "always", "first-run"},
      {"LIGER_JIT_LOG", "yes", "0, 1, json, a path"},
      {"LIGER_JIT_CACHE_MODE", "rw", "readwrite, readonly, offline, refresh, off"},
      {"LIGER_JIT_CACHE_SIZE", "much", "500M"},
      {"LIGER_JIT_CACHE_SIZE", "0", "off"},
      {"LIGER_JIT_REMOTE", "http://h", "redis://"},
      {"LIGER_JIT_THREADS", "-1", "0 to"},
      {"LIGER_JIT_THREADS", "4x", "0 to"},
      {"LIGER_JIT_THREADS", "99999999999", "0 to"},
  };
  for (const auto& [name, value, allowed] : cases) {
    try {
      parse({{"HOME", home_}, {name, value}});
      ADD_FAILURE() << name << "=" << value << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      for (const std::string& word : {name, value, allowed}) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
      }
    }
  }
}

TEST_F(EnvironmentParser, table_lists_exactly_what_is_asked_for) {
  std::set<std::string> asked;
  parse_environment([&](const char* name) -> const char* {
    if (std::string_view(name).starts_with("LIGER_")) asked.insert(name);
    return nullptr;
  });
  std::set<std::string> listed;
  for (const EnvironmentVariable& variable : environment_table()) listed.insert(variable.name);
  EXPECT_EQ(asked, listed);
}

}  // namespace
}  // namespace liger
