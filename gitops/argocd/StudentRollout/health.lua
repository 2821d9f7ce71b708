-- Argo CD calls a custom resource without this Healthy at once.
local health = {status = "Progressing", message = "The operator has not seen it yet"}
local status = obj.status
if status == nil or status.phase == nil then
  return health
end
if status.observedGeneration == nil or status.observedGeneration < obj.metadata.generation then
  health.message = "The operator has not seen the newest spec yet"
  return health
end

local meanings = {
  Completed = "Healthy",
  Rejected = "Degraded",
  Inconclusive = "Degraded",
  Superseded = "Degraded",
  RolledBack = "Degraded",
  Failed = "Degraded",
  -- It waits for a person.
  AwaitingApproval = "Suspended",
  Suspended = "Suspended"
}
health.status = meanings[status.phase] or "Progressing"
health.message = status.phase
-- What is served is not what was promoted.
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Drifted" and condition.status == "True" then
    health.status = "Degraded"
    health.message = status.phase .. ", drifted: " .. condition.message
    return health
  end
end
if status.message ~= nil and status.message ~= "" then
  health.message = status.phase .. ": " .. status.message
end
return health
