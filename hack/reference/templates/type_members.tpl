{{- define "type_members" -}}
{{- if ne .Name "metadata" -}}{{ .Doc | trim | replace "\n" " " | replace "|" "\\|" }}{{- end -}}
{{- end -}}
