// One thread's share of a call: its buffers, its sums, and the two sweeps over a tile of samples.
#pragma once

#include <cmath>
#include <vector>

#include "model.h"

namespace fastssm::cpu {

// Some samples and some of their directions.
struct Tile {
  int64_t first;  // sample
  int64_t samples;
  int64_t direction;  // first one
  int64_t tangents;
  bool leading() const { return direction == 0; }  // what is not a sum over directions enters with the first ones
};

// What a sweep is for, as far as its buffers go.
struct Use {
  bool merged;     // an energy's merged sweep, not the stacked one
  bool gradients;  // down as well as up
  bool each;       // the Jacobian's term of every direction, not their mean
};

template <class T>
class Lane {
 public:
  Lane(const Model<T>& model, const Gradients<T>& gradients, Sums<T>& sums, Use use, Tile largest, Arena& arena);

  void objective(const Tile& tile, const Objective<T>& objective);
  void terms(const Tile& tile, const Terms<T>& out);
  void terms_backward(const Tile& tile, const Terms<T>& given);

 private:
  // A hidden layer's rows in a tile; see kernels.h for their layout.
  struct Stage {
    int64_t ld;
    Shape shape;
    T* z;
    T* out;
    T* d2;
    T* d3;
    T* q;
    T* bars;
    T* g;    // the chain after this layer
    T* raw;  // before the modulation, where there is a scale
    T* gz;   // the chain before the modulation
  };
  struct Rows {
    T* p;
    int64_t ld;
  };

  T averaged() const { return use_.each ? T(1) : model_.problem.directions.averaged(); }
  bool along_axes() const { return !model_.problem.directions.v && !model_.problem.directions.seeded; }
  T axis() const { return std::sqrt(T(model_.problem.dim)); }  // the length of a direction along one
  int64_t jacobians() const { return use_.each ? tile_.tangents : 1; }
  int64_t depth() const { return static_cast<int64_t>(stages_.size()); }
  Rows entering(int64_t l) const { return l == 0 ? first_ : Rows{stages_[l - 1].out, stages_[l - 1].ld}; }
  Rows bars_below(int64_t l) const { return l == 0 ? entry_ : Rows{stages_[l - 1].bars, stages_[l - 1].ld}; }
  Rows top() const { return entering(depth()); }
  T* direction(int64_t m) const { return first_.p + (m + 1) * tile_.samples * first_.ld; }

  // Steps common to all sweeps (tile_sweep.cpp).
  void enter(const Tile& tile);
  void climb(int64_t l, int order, bool curvature, bool squares);
  void raise(int64_t l, int64_t kinds, T* out) const;
  bool keep_above(int64_t l, int64_t kinds);
  void collect(int64_t l, int64_t kinds);
  void below(int64_t l, int64_t kinds, bool accumulate);
  void leave();
  int64_t turned_ld() const;
  T* bias_sum(int64_t l) const { return modulated(l) ? nullptr : sums_.hidden[l].bias; }
  bool modulated(int64_t l) const { return model_.hidden[l].scale || model_.hidden[l].shift; }
  void modulate(int64_t l, int64_t kinds);
  void modulate_down(int64_t l, int64_t kinds);

  // Energy nets (energy.cpp).
  T broken_of_energy(int64_t r) const;
  void sliced(const Objective<T>& objective);
  void sliced_down(const T* weight);
  void chain_step(int64_t l);
  void curvature_step(int64_t l);
  void merged_down();
  void merged_terms();
  // Score nets (score.cpp).
  void find_broken();
  void score_up(bool with_score);
  void score_sliced(const Objective<T>& objective);
  void score_down(bool with_score);

  // The terms of the tile in score_, projected_, jacobian_, by the sweep of the network's kind; then gradients from
  // their cotangents in on_score_ (rows as wide as the first layer's) and on_jacobian_.
  void find_terms();
  void pull_back();

  const Model<T>& model_;
  const Kernels<T>& kernels_;
  const Gradients<T>& gradients_;
  Sums<T>& sums_;
  Use use_;
  Tile tile_;
  NarrowScratch scratch_;
  std::vector<Stage> stages_;
  Rows first_;       // x and the directions, conditioning columns behind x; then the curvature row
  Rows entry_;       // adjoint of what entered
  Rows score_;       // s
  Rows on_score_;    // dLoss/ds
  Rows lifted_;      // score nets: W^T v_m, then its adjoint
  T* projected_;     // [tangents, samples]
  T* jacobian_;      // [samples], or for each direction [tangents, samples]
  T* on_jacobian_;   // [samples]
  T* energy_;        // [samples]
  T* broken_;        // [samples]: zero, or NaN where something in the sample is not finite
  T* coefficients_;  // [kinds, samples]
  T* turned_;
};

}  // namespace fastssm::cpu
