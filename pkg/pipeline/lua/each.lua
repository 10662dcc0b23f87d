-- Follows an operation, and runs it for each of the calls that share this run of the script.
-- KEYS: those of the first call, then those of the second …; every call has the same number
-- ARGV: 1 number of calls; then those of each call, likewise
-- Returns: for each call, an array of one element, which is what the operation returned; or
-- the error of this call as text. An error of one call does not affect the others.
--
-- Errors are returned as text because go-redis stops reading an array at an error like OOM in
-- it, and takes the rest for the replies to the next commands. Only READONLY, from a replica,
-- which carries out no write, is returned as an error, and for the whole run: go-redis then
-- gives up the connection, and the next one may lead to the Redis that has taken over.
--
-- A full Redis refuses a run whose first write needs memory. If the first write needs none,
-- as a deletion, Redis accepts all writes after it, those of later calls too.
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
