-- Argo CD knows who clicked, and does not tell: its own log says it.
if obj.status == nil or obj.status.phase ~= "AwaitingApproval" then
  error("only a rollout that is AwaitingApproval can be approved")
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
local words = " argocd: by the action approve in Argo CD at " .. os.date("!%Y-%m-%dT%H:%M:%SZ")
obj.metadata.annotations["flowstill.dev/approve"] = obj.status.evidence.digest .. words
return obj
