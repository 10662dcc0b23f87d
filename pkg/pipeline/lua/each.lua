-- Stands behind an operation, which it carries out for each of the calls that share this run
-- of the script.
-- KEYS: those of each call, one behind another: of each as many
-- ARGV: 1 number of calls; then those of each call, likewise
-- Answers for each an array of what the operation answers; or the text of the error that it,
-- and no other, came to. No errors: go-redis does not read on behind one in an array, where
-- it is OOM or the like, and takes what is left for the answers of the next commands. But a
-- replica, which carries out no write, answers with its error alone: go-redis gives the
-- connection up, and the next one may lead to the Redis that has taken over.
-- A full Redis refuses what a script writes first; behind what it does not refuse, as to
-- delete something, it takes what the calls behind it write.
local calls = tonumber(ARGV[1])
local keys, args = #KEYS / calls, (#ARGV - 1) / calls
local answers = {}
for i = 0, calls - 1 do
  local done, answer = pcall(operation, {unpack(KEYS, i * keys + 1, i * keys + keys)}, {unpack(ARGV, i * args + 2, i * args + args + 1)})
  if type(answer) == 'table' and answer.err then done, answer = false, answer.err end
  if not done and string.find(tostring(answer), '^READONLY') then return {err = answer} end
  answers[i + 1] = done and {answer} or tostring(answer)
end
return answers
