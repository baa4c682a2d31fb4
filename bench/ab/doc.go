// Package ab compares two ways of doing the same work: ours and a peer's.
//
// Samples are taken alternately, so that what disturbs the machine disturbs both, and each round swaps who goes first.
// A [Result] has the medians, the ratio of each round and the bound that was promised. A bound counts as missed only
// when no round kept it: with the noise of an emulated host, less would be chance. The package runs nothing itself and
// knows nothing of virtual machines. Start reading at [Compare].
package ab
