// Score nets, s(x) itself: value and tangent rows only. The readout s = W h + b is applied to the directions instead:
// with the pullback u_m = W^T v_m, computed once, v_m^T J v_m = u_m . hd_m and v_m . s = u_m . h + v_m . b.
#include "launch.h"
#include "pass.h"

namespace fastssm::cuda {

// Carries value and tangents up and computes u_m; `with_score` also s, as rows without its bias.
template <class T>
void Pass<T>::score_up(bool with_score) {
  for (int64_t l = 0; l < depth(); l++) layer_up(l, false, false);
  if (tile_.tangents > 0)
    product_down(depth(), tile_.tangents * tile_.samples, direction(0), pullback_, false);
  if (with_score) product_up(depth(), tile_.samples, top(), score_);
}

// Sliced score matching without computing the score.
template <class T>
void Pass<T>::score_sliced(const Objective<T>& objective) {
  score_up(false);
  ScoreTop<T> top{};
  top.shape = top_shape();
  top.h = this->top().p;
  top.pullback = pullback_.p, top.pullback_ld = pullback_.ld;
  top.v = direction(0).p, top.v_ld = first_.ld;
  top.bias = readout_.bias, top.dim = problem_.dim;
  top.count = count(), top.add = !tile_.leading();
  top.weight = weight(objective);
  top.share = options_.gradients ? coefficients_ : nullptr, top.along = coefficients_ + tile_.samples;
  top.projected_jacobian = of_tile(objective.projected_jacobian, 1), top.square = of_tile(objective.square, 1);
  over_samples(runtime_, "score_top", tile_.samples, tile_.tangents, top);
  if (options_.gradients) score_down(false);
}

// Down from the readout. The score's cotangent is given as rows; without the score it is (v_m . s) / M along each v_m.
template <class T>
void Pass<T>::score_down(bool with_score) {
  const int64_t samples = tile_.samples, tangents = tile_.tangents;
  const T* along = coefficients_ + samples;  // dLoss/d(v_m . s)
  const Rows directions = direction(0), adjoints = adjoints_below(depth());
  if (with_score && (depth() > 0 || gradients_.x)) product_down(depth(), samples, on_score(), adjoints, false);
  if (with_score && given_readout_) product_outer(depth(), samples, on_score(), top(), false);
  ScoreSeed<T> seed{};
  seed.shape = top_shape();
  seed.h = top().p;
  seed.share = coefficients_, seed.along = with_score ? nullptr : along;
  seed.pullback = pullback_.p, seed.narrow = pullback_.narrow, seed.adjoints = adjoints.p;
  seed.tangents = depth() > 0;
  if (tangents > 0) over_rows(runtime_, "score_seed", samples, samples, pullback_.ld, seed, seed.walk);
  if (given_readout_ && tangents > 0) product_outer(depth(), tangents * samples, directions, pullback_, with_score);
  if (given_readout_ && gradients_.layers && readout_.bias)
    with_score ? weighted_sum(readout_sum_, samples, on_score(), nullptr)
               : weighted_sum(readout_sum_, tangents * samples, directions, along);
  for (int64_t l = depth() - 1; l >= 0; l--) {
    Back<T> down = back(l, true);
    const int64_t height =
        over_rows(runtime_, "down_score", samples, largest_.samples, stages_[l].ld, down, down.walk, true);
    layer_down(l, down, height, tangents + 1, l == 0 ? 1 : tangents + 1);
  }
  leave(true);
}

#define FASTSSM_INSTANTIATE(T)                                  \
  template void Pass<T>::score_up(bool);                        \
  template void Pass<T>::score_sliced(const Objective<T>&);     \
  template void Pass<T>::score_down(bool);
FASTSSM_INSTANTIATE(float)
FASTSSM_INSTANTIATE(double)

}  // namespace fastssm::cuda
