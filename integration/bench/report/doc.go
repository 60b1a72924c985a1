// Command report makes docs/benchmarks of what benchmarks measured.
//
//	report begin                      the environment, to standard output: before the first part
//	report collect -begun FILE …      one run into results.json
//	report render -results FILE -to D README.md and the plots, which say only what results.json says
//	report explained -results FILE    fails for a missed aim that nobody has explained
//
// It measures nothing and runs no benchmark; hack/bench.sh and hack/bench-cluster.sh do.
//
// What must stay so, and the test that says it:
//   - Rendering is a function of results.json: the same bytes for the same input, in whatever
//     order it was collected (TestRender, TestRenderOrder).
//   - A run replaces what the run of the same name measured before and nothing else (TestCollect).
//   - A missed aim is called MISSED and leads to an explanation (TestRender, TestUnexplained).
//   - What was not measured is named (TestRender).
package main
