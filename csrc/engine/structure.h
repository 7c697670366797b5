// The structure of a network, which is the static part of a call, as the operators of
// src/fastssm/backends/entries/dispatcher.py pass it.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../maths/activations.h"
#include "network.h"

namespace fastssm {

// Raises std::runtime_error, with the words joined as its message, unless the condition holds.
template <class... Words>
void require(bool condition, const Words&... words) {
  if (condition) return;
  std::ostringstream sentence;
  (sentence << ... << words);
  throw std::runtime_error(sentence.str());
}

constexpr int64_t kBias = 1, kScale = 2, kShift = 4, kSkip = 8;  // as fastssm.sweeps.structure has them

struct Structure {
  Structure(const std::string& name, std::vector<int64_t> rows, std::vector<double> parameters,
            std::vector<int64_t> bits)
      : kind(name == "energy" ? Kind::energy : Kind::score),
        activations(std::move(rows)),
        constants(std::move(parameters)),
        flags(std::move(bits)) {
    require(name == "energy" || name == "score", "kind must be energy or score, got ", name, ".");
    require(!flags.empty() && flags.size() == activations.size(), "each layer needs an activation and its flags.");
    size_t needed = 0;
    for (int64_t activation : activations) {
      require(0 <= activation && activation < activation_count, "there is no activation ", activation, ".");
      needed += static_cast<size_t>(activation_parameters[activation]);
    }
    require(needed <= constants.size(), "the activations take ", needed, " constants, got ", constants.size(), ".");
  }

  size_t tensors() const {
    size_t count = 0;
    for (int64_t flag : flags) count += 1 + !!(flag & kBias) + !!(flag & kScale) + !!(flag & kShift);
    return count;
  }

  // The number of tensors that all samples share. These, weights and biases, come first; scales and shifts follow.
  size_t shared() const {
    size_t count = 0;
    for (int64_t flag : flags) count += 1 + !!(flag & kBias);
    return count;
  }

  Kind kind;
  std::vector<int64_t> activations;
  std::vector<double> constants;
  std::vector<int64_t> flags;
};

// Which gradients a call computes.
struct Needs {
  bool inputs;   // of x and the conditioning columns
  bool tensors;  // of the network's tensors
};

// Which loss a call computes.
struct Form {
  bool variance_reduced;
  bool mean;  // over samples, else the sum
};

}  // namespace fastssm
