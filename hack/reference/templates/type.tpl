{{- define "type" -}}
{{- $type := . -}}
{{- if markdownShouldRenderType $type }}
### {{ $type.Name }}

{{ if $type.IsAlias }}A {{ markdownRenderTypeLink $type.UnderlyingType }}. {{ end }}{{ $type.Doc | trim }}
{{- if $type.References }}

In:{{ range $type.SortedReferences }} {{ markdownRenderTypeLink . }}{{ end }}
{{- end }}
{{- if $type.EnumValues }}

| Value | |
| --- | --- |
{{- range $type.EnumValues }}
| `{{ .Name }}` | {{ .Doc | trim | replace "\n" " " }} |
{{- end }}
{{- end }}
{{- if $type.Members }}

| Field | | Default | Rules |
| --- | --- | --- | --- |
{{- range $type.Members }}
| `{{ .Name }}` _{{ markdownRenderType .Type }}_ | {{ template "type_members" . }} | {{ with .Default }}`{{ . }}`{{ end }} | {{ template "rules" .Validation }} |
{{- end }}
{{- end }}
{{ end -}}
{{- end -}}

{{- define "rules" -}}
{{- $first := true -}}
{{- range . -}}
{{- $rule := . | replace ": {}" "" | replace ": \\{\\}" "" -}}
{{- if ne $rule "Optional" -}}{{ if not $first }}, {{ end }}{{ $first = false }}{{ $rule | replace "|" "\\|" }}{{- end -}}
{{- end -}}
{{- end -}}
