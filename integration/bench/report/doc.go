// Command report makes docs/benchmarks of what benchmarks measured.
//
//	report begin                      the environment, to standard output: before the first part
//	report collect -begun FILE …      one run into results.json
//	report render -results FILE -to D README.md and the plots, which say only what results.json says
//	report fit -results FILE          fails for a run that is not one to publish
//	report explained -results FILE    the same of all runs, and for what nobody has explained or need not any more
//
// It measures nothing and runs no benchmark; hack/bench.sh and hack/bench-cluster.sh do.
//
// What must stay so, and the test that says it:
//   - Rendering is a function of results.json: the same bytes for the same input, in whatever
//     order it was collected (TestRender, TestRenderOrder, TestVariants).
//   - A run replaces what the run of the same name measured before and nothing else (TestCollect).
//   - Aims are a list of name, size and subject, so that a figure which is not there is seen (TestAims, TestAimed).
//   - The page begins with sentences of medians, of what was measured only (TestShort).
//   - What several notes or sentences have in common is said once (TestNotes, TestRepeated, TestMergeSizes).
//   - An aim is decided by the whole 95 % interval, and told from its value by enough digits (TestJudge, TestNear).
//   - One figure is told in one way: a ratio is what was measured turn by turn, wherever it stands (TestOneEstimator).
//   - What was missed or not measured leads to an explanation, and no explanation is of what is no longer so
//     (TestRender, TestUnexplained).
//   - A run that was quick, of no commit, not root, failed or not whole is not published (TestFit, TestScript, TestClusterScript).
//   - What cannot be installed is left out with a sentence, and the rest measured (TestScript).
//   - The environment has what figures depend on (TestMachine, TestHypervisor, TestSteal, TestOneProcessor).
//   - Commands of figures measure where they are pasted (TestCommands).
package main
