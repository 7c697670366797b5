// What all workers of a call read: the hidden layers and a plain affine readout, with their matrices packed.
#pragma once

#include <functional>
#include <vector>

#include "../engine/network.h"
#include "weights.h"

namespace fastssm::cpu {

// What a call runs on: its kernels, narrow products and threads. `run(n, f)` calls f(0) ... f(n - 1), each once.
template <class T>
struct Runtime {
  const Kernels<T>& kernels;
  NarrowProducts narrow;
  int64_t threads;
  std::function<void(int64_t, const std::function<void(int64_t)>&)> run;
};

template <class T>
struct Model {
  // Without `to_inputs` no sweep goes down through the first layer.
  Model(const Problem<T>& problem, const Runtime<T>& runtime, bool to_inputs, Arena& arena);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Problem<T>& problem;
  const Runtime<T>& runtime;
  std::vector<Layer<T>> hidden;
  Layer<T> readout;
  bool given_readout;               // false: the network ends in an activation, and the readout is the identity
  std::vector<Weights<T>> weights;  // of the hidden layers, and of a score's readout
  std::vector<const T*> biases;     // padded rows to add before each hidden layer's activation
  const T* readout_row;             // an energy's readout, padded
  const T* zeros;                   // a row as wide as any
  int64_t widest;                   // padded

 private:
  const T* padded(const T* row, int64_t width, Arena& arena) const;
  void pack();
  std::vector<T> identity_;
};

// Where one worker adds up the gradients of weights: matrices in panels (see Weights), padded rows of biases.
template <class T>
struct Sums {
  struct OfLayer {
    T* weight = nullptr;
    T* bias = nullptr;
    bool started = false;  // whether `weight` holds anything yet
  };
  std::vector<OfLayer> hidden;
  OfLayer readout;
};

}  // namespace fastssm::cpu
