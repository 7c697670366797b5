// One worker's buffers, and its two sweeps over a tile of samples.
#pragma once

#include <cmath>
#include <vector>

#include "../engine/tile.h"
#include "model.h"

namespace fastssm::cpu {

template <class T>
class TileSweep {
 public:
  TileSweep(const Model<T>& model, const Gradients<T>& gradients, Sums<T>& sums, SweepOptions options, Tile largest,
            Arena& arena);

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
    T* adjoints;
    T* g;    // the chain after this layer
    T* raw;  // z before the modulation, where there is a scale
    T* gz;   // the chain before the modulation
    uint16_t* narrow_out;       // out as bfloat16, in its place; or null
    uint16_t* narrow_adjoints;  // the same of adjoints, after the pass down
    Rows<T> adjoint_rows() const { return {adjoints, ld, narrow_adjoints}; }
  };

  T averaged() const { return options_.each ? T(1) : model_.problem.directions.averaged(); }
  bool along_axes() const { return !model_.problem.directions.v && !model_.problem.directions.seeded; }
  T axis() const { return std::sqrt(T(model_.problem.dim)); }  // the length of a direction along one
  int64_t jacobian_rows() const { return options_.each ? tile_.tangents : 1; }
  bool each_down() const { return options_.each && options_.gradients; }
  int64_t depth() const { return static_cast<int64_t>(stages_.size()); }
  Rows<T> entering(int64_t l) const {
    return l == 0 ? first_ : Rows<T>{stages_[l - 1].out, stages_[l - 1].ld, stages_[l - 1].narrow_out};
  }
  Rows<T> adjoints_below(int64_t l) const {
    return l == 0 ? entry_ : Rows<T>{stages_[l - 1].adjoints, stages_[l - 1].ld};
  }
  Rows<T> top() const { return entering(depth()); }
  T* direction(int64_t m) const { return first_.p + (m + 1) * tile_.samples * first_.ld; }

  void add_stages(int64_t rows, int64_t widest, bool narrow, Arena& arena);
  bool narrow_above(int64_t l) const;
  bool narrow_below(int64_t l) const;

  // Steps common to all sweeps (tile_sweep.cpp).
  void enter(const Tile& tile);
  void layer_up(int64_t l, int order, bool curvature, bool squares);
  void product_up(int64_t l, int64_t kinds, T* out) const;
  bool keep_above(int64_t l, int64_t kinds);
  void collect(int64_t l, int64_t kinds);
  void collect_axes(int64_t width, const T* adjoints, int64_t ld);
  void product_down(int64_t l, int64_t kinds, bool accumulate);
  void leave();
  T* bias_sum(int64_t l) const { return modulated(l) ? nullptr : sums_.hidden[l].bias; }
  bool modulated(int64_t l) const { return model_.hidden[l].scale || model_.hidden[l].shift; }
  void modulate(int64_t l, int64_t kinds);
  void modulate_down(int64_t l, int64_t kinds);

  // Energy nets (energy.cpp).
  T nan_flag_of_energy(int64_t r) const;
  void sliced(const Objective<T>& objective);
  void sliced_down(const T* weight);
  void chain_step(int64_t l);
  void curvature_step(int64_t l);
  void merged_down();
  void merged_terms();

  // Score nets (score.cpp).
  void find_nans();
  void score_up(bool with_score);
  void score_sliced(const Objective<T>& objective);
  void readout_down(bool with_score);
  void collect_readout(const T* along);
  void score_down(bool with_score);

  // Computes the tile's terms, in score_, projected_ and projected_jacobian_, by the sweep of the network's kind.
  void find_terms();
  // Computes gradients from the cotangents in on_score_ (rows as wide as the first layer's) and
  // on_projected_jacobian_.
  void terms_down();

  const Model<T>& model_;
  const Kernels<T>& kernels_;
  const Gradients<T>& gradients_;
  Sums<T>& sums_;
  SweepOptions options_;
  Tile tile_;
  NarrowScratch scratch_;
  std::vector<Stage> stages_;
  Rows<T> first_;       // x with the conditioning columns after it, and the directions; then the curvature row
  Rows<T> entry_;       // adjoints of x and the conditioning columns
  Rows<T> score_;       // s
  Rows<T> on_score_;    // dLoss/ds
  Rows<T> pullback_;    // score nets: W^T v_m, then its adjoint
  T* projected_;     // [tangents, samples]
  T* projected_jacobian_;     // [samples], or for each direction [tangents, samples]
  T* on_projected_jacobian_;  // like projected_jacobian_
  T* energy_;        // [samples]
  T* nan_flag_;      // [samples]: NaN where a number of the sample is not finite, else zero
  T* coefficients_;  // [kinds, samples]
  Rows<T> axes_;        // for unit directions: what each adds to a gradient of a matrix
};

}  // namespace fastssm::cpu
