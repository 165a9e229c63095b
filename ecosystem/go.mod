module probed/ecosystem

go 1.26.0

replace probed => ../
