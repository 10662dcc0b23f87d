seed=$1
timeout 100 go test -count=1 -timeout 90s -run TestSimulation -v . -args -seed $seed -seeds 1 -story > /tmp/d.txt 2>&1
grep "violation\|order:\| I[0-9]" /tmp/d.txt | cut -c1-700 | head
