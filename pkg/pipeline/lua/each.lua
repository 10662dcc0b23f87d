-- Stands behind an operation, which it carries out for each of the calls that share this run
-- of the script.
-- KEYS: those of each call, one behind another: of each as many
-- ARGV: 1 number of calls; then those of each call, likewise
-- Answers for each what the operation does, or the error that it, and no other, came to.
local calls = tonumber(ARGV[1])
local keys, args = #KEYS / calls, (#ARGV - 1) / calls
local answers = {}
for i = 0, calls - 1 do
  local done, answer = pcall(operation, {unpack(KEYS, i * keys + 1, i * keys + keys)}, {unpack(ARGV, i * args + 2, i * args + args + 1)})
  if not done and type(answer) ~= 'table' then answer = {err = answer} end
  answers[i + 1] = answer
end
return answers
