// The generated translation unit: it only instantiates a template. It is what is hashed, what
// `liger-jit show` prints and what a bug report pastes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/spec.h"

namespace liger {

struct Unit {
  std::string kernel;    // RmsNormForward
  std::string spec;      // .x = Dtype::bf16, .hidden = 4096
  std::string text;      // the few generated lines
  std::string expanded;  // the same with every include put in place: one self-contained source
};

// `template_file` as in templates/, for example "rms_norm.h". Raises Error(invalid_argument) for a
// file that is not embedded in the library.
Unit make_unit(std::string_view template_file, std::string_view kernel, const Spec& spec);

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
