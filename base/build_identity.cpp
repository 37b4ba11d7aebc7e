// build_identity() of shared_library.h: what tells two builds of a compiler library apart.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/process_state.h"
#include "base/shared_library.h"
#include "base/text.h"

namespace liger {
namespace {

// More than any real file has; keeps a damaged one from costing memory.
constexpr uint64_t most_note_bytes = 1 << 20;

bool read_at(int file, uint64_t offset, void* into, size_t size_bytes) {
  char* to = static_cast<char*>(into);
  while (size_bytes > 0) {
    const ssize_t got = ::pread(file, to, size_bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    offset += static_cast<uint64_t>(got);
    size_bytes -= static_cast<size_t>(got);
  }
  return true;
}

// Walks the notes of one segment; empty if the build id is not among them.
std::string build_id_in(std::string_view notes, uint64_t alignment) {
  const auto padded = [&](uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
  ElfW(Nhdr) note;
  while (notes.size() >= sizeof note) {
    std::memcpy(&note, notes.data(), sizeof note);
    notes.remove_prefix(sizeof note);
    const uint64_t name_bytes = padded(note.n_namesz);
    if (name_bytes > notes.size() || note.n_descsz > notes.size() - name_bytes) return "";
    const bool is_gnu = notes.substr(0, note.n_namesz) == std::string_view("GNU", 4);
    if (is_gnu && note.n_type == NT_GNU_BUILD_ID) {
      std::string hex;
      for (const char byte : notes.substr(name_bytes, note.n_descsz)) {
        hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
      }
      return hex;
    }
    notes.remove_prefix(std::min<uint64_t>(name_bytes + padded(note.n_descsz), notes.size()));
  }
  return "";
}

// Through the program headers: they survive `strip`, section headers need not.
std::string gnu_build_id(int file) {
  ElfW(Ehdr) header;
  if (!read_at(file, 0, &header, sizeof header)) return "";
  const unsigned char native_class = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "";
  if (header.e_ident[EI_CLASS] != native_class) return "";
  for (int i = 0; i < header.e_phnum; ++i) {
    ElfW(Phdr) segment;
    if (!read_at(file, header.e_phoff + i * sizeof segment, &segment, sizeof segment)) return "";
    if (segment.p_type != PT_NOTE || segment.p_filesz > most_note_bytes) continue;
    std::string notes(segment.p_filesz, '\0');
    if (!read_at(file, segment.p_offset, notes.data(), notes.size())) continue;
    std::string id = build_id_in(notes, segment.p_align == 8 ? 8 : 4);
    if (!id.empty()) return id;
  }
  return "";
}

// The file behind a name such as libnvrtc.so.13, which only the loader can resolve.
std::string resolve(const std::string& library_path) {
  std::string path = library_path;
  if (path.find('/') == std::string::npos) {
    void* handle = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    link_map* map = nullptr;
    if (handle != nullptr && ::dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0) path = map->l_name;
    if (handle != nullptr) ::dlclose(handle);
  }
  std::error_code trouble;
  const std::filesystem::path real = std::filesystem::canonical(path, trouble);
  return trouble ? path : real.string();
}

[[noreturn]] void refuse(const std::string& path, const char* answer) {
  throw Error(ErrorKind::compile,
              fmt::format("cannot read the library {} ({}), whose build is part of the name of "
                          "each kernel it compiles",
                          path, answer));
}

using Version = std::tuple<std::string, int64_t, int64_t, int64_t>;
struct Known {
  std::mutex mutex;
  std::map<Version, std::string> by_version;
};

std::string identify(const std::string& path, int file) {
  const std::string id = gnu_build_id(file);
  if (!id.empty()) return "build-id:" + id;
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (bytes.empty()) refuse(path, "no bytes");
  return fmt::format("bytes:{}:{}", bytes.size(), hash128(bytes).hex());
}

}  // namespace

std::string build_identity(const std::string& library_path) {
  const std::string path = resolve(library_path);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status = {};
  if (!file.is_open() || ::fstat(file.number(), &status) != 0) refuse(path, std::strerror(errno));

  const Version version{path, status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_size};
  Known& known = ProcessState<Known>::get();
  const std::lock_guard lock(known.mutex);
  const auto found = known.by_version.find(version);
  if (found != known.by_version.end()) return found->second;
  return known.by_version[version] = identify(path, file.number());
}

}  // namespace liger
