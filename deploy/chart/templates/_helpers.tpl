{{/* Names and these labels are the same in every installation: there is one in a cluster, the
Services of Gateways select the agents by them, and rights are given by name. */}}
{{- define "portway.labels" -}}
app.kubernetes.io/name: portway
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "portway.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "portway.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The flag both programs have to agree on; nothing where it says what they take anyway. A Gateway
that took a port of the agents would end them. */}}
{{- define "portway.nodePorts" -}}
{{- $own := printf "%d,%d" (int .Values.layer2.port) (int .Values.agent.port) }}
{{- $ports := printf "22,2379-2380,6443,%s,10250-10259" $own }}
{{- with .Values.nodePorts }}{{ $ports = printf "%s,%s" . $own }}{{ end }}
{{- if ne $ports "22,2379-2380,6443,7946,9617,10250-10259" }}
- --node-ports={{ $ports }}
{{- end }}
{{- end }}

{{/* Whether the API server puts the node into every token, and whether it judges policies. */}}
{{- define "portway.nodePolicies" -}}
{{- if or (eq .Values.admissionPolicies "always") (and (eq .Values.admissionPolicies "auto") (semverCompare ">=1.32.0-0" .Capabilities.KubeVersion.Version)) }}true{{ end }}
{{- end }}
{{- define "portway.policies" -}}
{{- if ne .Values.admissionPolicies "never" }}true{{ end }}
{{- end }}

{{/* What runs without rights on its node: the controller, or what dict "root" describes. */}}
{{- define "portway.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
{{- define "portway.restrictedPod" -}}
runAsNonRoot: true
{{- with int (.root | default .).Values.controller.runAsUser }}
runAsUser: {{ . }}
runAsGroup: {{ . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A ServiceAccount with rules for the cluster and for the namespace:
dict "root" "name" "annotations" "cluster" "namespace". */}}
{{- define "portway.account" -}}
{{- $meta := printf "labels:\n  %s" (include "portway.labels" (trimPrefix "portway-" .name) | indent 2 | trim) }}
{{- with .annotations }}{{ $meta = printf "%s\nannotations:\n  %s" $meta (. | toYaml | indent 2 | trim) }}{{ end }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  {{- $meta | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  {{- $meta | nindent 2 }}
rules:
{{ .cluster | trim }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  {{- $meta | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  {{- $meta | nindent 2 }}
rules:
{{ .namespace | trim }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  {{- $meta | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
{{- end }}
