// What all threads of a call read: the network split into hidden layers and a plain affine readout, packed.
#pragma once

#include <functional>
#include <vector>

#include "../engine/network.h"
#include "weights.h"

namespace fastssm::cpu {

// How a call runs: its kernels and products, and its threads. `run(n, f)` calls f(0) ... f(n - 1), each once.
template <class T>
struct Runtime {
  const Kernels<T>& kernels;
  Gemms<T> gemms;
  int64_t threads;
  std::function<void(int64_t, const std::function<void(int64_t)>&)> run;
};

template <class T>
struct Model {
  Model(const Problem<T>& problem, const Runtime<T>& runtime, Arena& arena);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Problem<T>& problem;
  const Runtime<T>& runtime;
  std::vector<Layer<T>> hidden;
  Layer<T> readout;
  bool given_readout;               // else the readout is the identity, after a network that ends in an activation
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

// Where one thread adds up the gradients of weights. Matrices are as the caller's, rows of biases are padded.
template <class T>
struct Sums {
  struct Of {
    T* weight = nullptr;
    T* bias = nullptr;
    bool started = false;  // whether `weight` holds anything yet
  };
  std::vector<Of> hidden;
  Of readout;
};

}  // namespace fastssm::cpu
