// The generated translation unit: it only instantiates a template. It is what is hashed, what
// `liger-jit show` prints and what a bug report pastes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/compile/spec.h"

namespace liger {

struct Unit {
  std::string kernel;    // RmsNormForward
  std::string spec;      // .x = Dtype::bf16, .hidden = 4096
  std::string text;      // the few generated lines
  std::string expanded;  // the same with every include put in place: one self-contained source
};

// What units are instances of.
struct KernelTemplate {
  std::string_view file;    // in templates/, for example "norm/rms_norm.h"
  std::string_view kernel;  // the struct in it
  // What its members are, as `layout_of` says; the same wherever the kernel is named.
  std::string_view layout = {};
};

// A member of a kernel's struct, in order.
struct Member {
  std::string name;  // x, q_strides[1], count.target
  int bytes = 8;
};
// The lines of a unit by which a struct with other members, or in another order, does not compile.
std::string layout_of(std::string_view kernel, const std::vector<Member>& members);

// Raises Error(invalid_argument) for a file that is not embedded in the library.
Unit make_unit(const KernelTemplate& made_from, const Spec& spec);

// The function of the binary that is launched, by which profilers know it: liger_RmsNormForward.
std::string entry_symbol(std::string_view kernel);

// The text with each `#include "…"` replaced by that embedded file, each file once, with #line
// marks.
std::string expand_includes(std::string_view text);

struct EmbeddedFile {
  std::string_view name;  // device/row.h
  std::string_view text;
};

// The files of templates/, put into the library by the build.
const std::vector<EmbeddedFile>& embedded_templates();

}  // namespace liger
