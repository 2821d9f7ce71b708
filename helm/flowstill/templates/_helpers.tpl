{{- define "flowstill.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "flowstill.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains (include "flowstill.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "flowstill.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "flowstill.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flowstill.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "flowstill.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "flowstill.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: flowstill
{{- end }}

{{- define "flowstill.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flowstill.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* NAME of pvc://NAME[/PATH] */}}
{{- define "flowstill.claimName" -}}
{{- regexReplaceAll "^pvc://([^/]+).*$" .Values.store.uri "${1}" }}
{{- end }}

{{- /* REPOSITORY@DIGEST or REPOSITORY:TAG of (list ROOT IMAGE) */}}
{{- define "flowstill.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}
