# Turns the output of go test -bench into one table per package: the median of the
# runs of each figure, with the smallest and the largest.
function flush_table(   i, key, n, v, j, t, k) {
	if (count == 0) return
	printf "\n### %s\n\n| benchmark | figure | median | min | max |\n|---|---|---|---|---|\n", pkg
	for (i = 1; i <= count; i++) {
		key = order[i]
		n = split(values[key], v, " ")
		for (j = 2; j <= n; j++) for (k = j; k > 1 && v[k] + 0 < v[k-1] + 0; k--) { t = v[k]; v[k] = v[k-1]; v[k-1] = t }
		split(key, part, SUBSEP)
		printf "| %s | %s | %s | %s | %s |\n", part[1], label(part[2]), human(v[int((n + 1) / 2)], part[2]), human(v[1], part[2]), human(v[n], part[2])
	}
	count = 0; delete order; delete values
}
function human(x, unit) {
	if (unit == "ns/op") {
		if (x >= 1e9) return sprintf("%.2f s", x / 1e9)
		if (x >= 1e6) return sprintf("%.1f ms", x / 1e6)
		if (x >= 1e3) return sprintf("%.1f µs", x / 1e3)
		return sprintf("%.0f ns", x)
	}
	if (unit == "B/op") return x >= 1e6 ? sprintf("%.1f MB", x / 1e6) : sprintf("%.1f kB", x / 1e3)
	return x + 0
}
/^pkg: / {
	if ($2 != pkg) flush_table()
	pkg = $2
	sub(/^github.com\/portway-dev\/portway\//, "", pkg)
}
/^Benchmark/ && NF >= 4 {
	name = $1
	sub(/^Benchmark/, "", name)
	sub(/-[0-9]+$/, "", name)
	for (i = 3; i < NF; i += 2) {
		key = name SUBSEP $(i + 1)
		if (!(key in values)) order[++count] = key
		values[key] = values[key] " " $i
	}
}
END { flush_table() }
function label(unit) { return unit == "ns/op" ? "time/op" : unit == "B/op" ? "memory/op" : unit }
