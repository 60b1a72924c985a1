{{- define "gvDetails" }}
## {{ .GroupVersionString }}

{{ .Doc | trim }}

Kinds:{{ range .SortedKinds }} {{ $.TypeForKind . | markdownRenderTypeLink }}{{ end }}
{{ range .SortedTypes }}{{ template "type" . }}{{ end }}
{{- end -}}
