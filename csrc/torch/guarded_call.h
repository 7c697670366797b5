// A call of the engine that is remembered whole: a network that was recognised, and guards, which say that it is the same.
#pragma once

#include <pybind11/pybind11.h>

#include "functions.h"

namespace fastssm::on_tensors {

// What recognition has read of one module.
struct Guard {
  pybind11::object reference;                                             // a weak one
  pybind11::object kind;                                                  // its class
  std::vector<std::pair<pybind11::object, pybind11::object>> attributes;  // names and values
  std::vector<uintptr_t> children;                                        // their ids
  std::vector<pybind11::object> parameters;                               // their classes
};

// Where a tensor of the network is: a parameter of one of the modules.
struct Place {
  size_t module;
  pybind11::object name;
};

// What makes calling a module more than calling its class's forward.
struct Hooks {
  pybind11::tuple names;                                                // of attributes of a module that must be empty
  pybind11::tuple everywhere;                                           // containers that must be empty
  std::vector<std::pair<pybind11::object, pybind11::object>> forwards;  // classes, and the forwards that they must have
};

class GuardedCall {
 public:
  GuardedCall(SharedStructure structure, int64_t dim, std::vector<Guard> modules, std::vector<Place> places,
              Hooks hooks)
      : structure_(std::move(structure)),
        dim_(dim),
        modules_(std::move(modules)),
        places_(std::move(places)),
        hooks_(std::move(hooks)) {}

  // The loss and its terms per sample, along v, or without it (None) along random signs, or with no projections along
  // the basis; nothing where anything differs from the call that was remembered, or something watches calls.
  std::optional<std::tuple<at::Tensor, at::Tensor, at::Tensor>> objective(const pybind11::handle& x,
                                                                          const pybind11::handle& v,
                                                                          int64_t projections, Form form) const;

 private:
  bool read(std::vector<at::Tensor>& tensors) const;

  SharedStructure structure_;
  int64_t dim_;
  std::vector<Guard> modules_;
  std::vector<Place> places_;
  Hooks hooks_;
};

}  // namespace fastssm::on_tensors
