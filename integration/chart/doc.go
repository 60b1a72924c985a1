// Package chart tests the Helm chart of deploy/chart without a cluster: what it renders is
// what the API servers' types take, what it refuses, and which rights come out of it. Its
// module pins helm. In a cluster the chart is installed by integration/e2e, TestInstall.
package chart
