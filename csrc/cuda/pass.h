// One call of the engine on a device: the network split into hidden layers and a plain readout, buffers for a tile,
// sums over tiles, and the two sweeps as kernel launches and products.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "../engine/network.h"
#include "../engine/tile.h"
#include "gemm.h"
#include "kernels/gemm_params.h"
#include "kernels/params.h"
#include "runtime.h"

namespace fastssm::cuda {

class BumpAllocator;

template <class T>
class Pass {
 public:
  Pass(const Problem<T>& problem, const int64_t* seed, const Gradients<T>& gradients, const Runtime<T>& runtime,
       SweepOptions options);
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  // Runs `step` for every tile of samples and chunk of directions, then writes the sums to the caller's tensors.
  template <class Step>
  void run(const Step& step) {
    for (int64_t first = 0; first < problem_.samples; first += largest_.samples) {
      int64_t m = 0;
      do {  // without directions there is one chunk, which is empty
        enter({.first = first,
               .samples = std::min(largest_.samples, problem_.samples - first),
               .direction = m,
               .tangents = std::min(largest_.tangents, problem_.directions.count - m)});
        step();
        begun_ = true;
        m += largest_.tangents;
      } while (m < problem_.directions.count);
    }
    if (gradients_.layers) finish();
  }

  // Steps of `run`, for its current tile.
  void objective(const Objective<T>& objective);
  void terms(const Terms<T>& out);
  void terms_backward(const Terms<T>& given);

  // loss = sum_b weight_b (projected_jacobian_b + square_b)
  void total(const Objective<T>& objective, T* loss);

 private:
  // A hidden layer's stacks in a tile, and its rows of the value alone.
  struct Stage {
    int64_t ld;
    T* z;    // products, before bias and scale
    T* out;  // null where only products read it
    uint16_t* narrow_out;
    T* adjoints;
    uint16_t* narrow_adjoints;
    T* q;
    T* g;  // the chain after this layer
  };
  struct Rows {
    T* p;
    int64_t ld;
    uint16_t* narrow = nullptr;  // the same in bfloat16, where the call keeps that
    Rows from(int64_t row) const { return {p ? p + row * ld : p, ld, narrow ? narrow + row * ld : narrow}; }
  };
  // One side of a product.
  struct Operand {
    View<const T> wide;
    View<const uint16_t> narrow;
  };
  // A row that adds up over samples: first one partial row for each block.
  struct Sum {
    T* partial;
    int64_t rows, ld;
  };

  int64_t depth() const { return static_cast<int64_t>(hidden_.size()); }
  bool energy() const { return problem_.kind == Kind::energy; }
  T count() const { return problem_.directions.averaged(); }
  const Layer<T>& layer(int64_t l) const { return l < depth() ? hidden_[l] : readout_; }
  Rows entering(int64_t l) const { return l == 0 ? first_ : out(stages_[l - 1]); }
  Rows adjoints_below(int64_t l) const { return l == 0 ? entry_ : Rows{stages_[l - 1].adjoints, stages_[l - 1].ld}; }
  static Rows out(const Stage& s) { return {s.out, s.ld, s.narrow_out}; }
  static Rows adjoints(const Stage& s) { return {s.adjoints, s.ld, s.narrow_adjoints}; }
  Rows top() const { return entering(depth()); }
  Rows direction(int64_t m) const { return first_.from((m + 1) * tile_.samples); }
  Rows on_score() const { return direction(tile_.tangents); }  // an energy's with the sign of dE/dx
  Shape shape(int64_t width, int64_t ld) const {
    return {.samples = tile_.samples, .tangents = tile_.tangents, .width = width, .ld = ld};
  }
  Shape shape(int64_t l) const { return shape(hidden_[l].out, stages_[l].ld); }
  Shape top_shape() const { return shape(readout_.in, top().ld); }
  template <class P>
  P* of_tile(P* rows, int64_t width) const {
    return rows ? rows + tile_.first * width : nullptr;
  }
  Weight<T> weight(const Objective<T>& objective) const {
    return {of_tile(objective.weight, 1), objective.factor};
  }

  // Buffers (buffers.cpp): the largest tile whose buffers fit, and the buffers themselves.
  void split();
  void choose_tile();
  void narrow_weights();
  size_t bytes(int64_t samples);
  void lay_out(BumpAllocator& allocator, int64_t samples);

  // Products and steps common to all sweeps (steps.cpp).
  Operand operand(Rows rows, int64_t count, int64_t width) const;
  Operand weight(int64_t layer) const;
  void product(const Operand& a, const Operand& b, View<T> c, bool accumulate);
  void product_up(int64_t layer, int64_t rows, Rows in, Rows out);
  void product_down(int64_t layer, int64_t rows, Rows adjoints, Rows out, bool accumulate);
  void product_outer(int64_t layer, int64_t rows, Rows adjoints, Rows entered, bool more);
  void weighted_sum(Sum& sum, int64_t rows, Rows a, const T* coefficients);
  void enter(const Tile& tile);
  Activated<T> activated(int64_t l) const;
  void layer_up(int64_t l, bool curvature, bool squares);
  void layer_down(int64_t l, const Back<T>& back, int64_t height, int64_t kinds, int64_t passed);
  Back<T> back(int64_t l, bool anything_above) const;
  void leave(bool anything);
  void finish();

  // Energy nets (energy.cpp).
  void sliced(const Objective<T>& objective);
  void sliced_down();
  void merged_up(bool sums);
  void chain_step(int64_t l, bool sums);
  void curvature_step(int64_t l);
  void merged_down();
  // Score nets (score.cpp).
  void score_up(bool with_score);
  void score_sliced(const Objective<T>& objective);
  void score_down(bool with_score);
  // Terms of either kind (terms.cpp): the sweep up, what the kernel at the top gets from it, and the sweep down.
  void find_terms(bool values);
  TermsTop<T> terms_top() const;
  void terms_down();

  const Problem<T>& problem_;
  const int64_t* seed_;
  const Gradients<T>& gradients_;
  const Runtime<T>& runtime_;
  const SweepOptions options_;
  std::vector<Layer<T>> hidden_;
  Layer<T> readout_;
  bool given_readout_;  // false: the network ends in an activation, and the readout is the identity
  bool narrow_;         // whether operands of products are kept in bfloat16
  std::vector<Narrowed> weights_;  // of the layers, the readout last, where they are
  Tile largest_{}, tile_{};
  bool begun_ = false;  // whether sums hold anything
  std::vector<Stage> stages_;
  Rows first_;       // x with the conditioning columns after it, and the directions; then the curvature row
  Rows entry_;       // adjoints of x and the conditioning columns
  Rows score_;       // dE/dx, or s before its bias
  Rows pullback_;    // score nets: W^T v_m, then its adjoint
  T* e2_;            // [samples]
  T* coefficients_;  // [kinds, samples]
  T* identity_;      // a readout where none is given
  std::vector<Sum> bias_sums_;  // of the hidden layers
  Sum readout_sum_;             // of an energy's readout, or of a score's last bias
};

}  // namespace fastssm::cuda
