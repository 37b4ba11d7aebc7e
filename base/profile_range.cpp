#include "base/profile_range.h"

#include <atomic>

#include "base/text.h"

namespace liger {
namespace {

std::atomic<ProfileRange::Begin> chosen_begin{nullptr};
std::atomic<ProfileRange::End> chosen_end{nullptr};

}  // namespace

void ProfileRange::set(Begin begin, End end) {
  chosen_end = end;
  chosen_begin = begin;
}

ProfileRange::ProfileRange(std::string_view action, std::string_view what) {
  if (const Begin begin = chosen_begin)
    handle_ = begin(fmt::format("liger_jit {} {}", action, what));
}

ProfileRange::~ProfileRange() {
  if (handle_ != nullptr) chosen_end.load()(handle_);
}

}  // namespace liger
