// The page that `plimsoll report` writes, but for the data in it: see kReportData. Made from
// report_page.html when building.
#pragma once

#include <string_view>

namespace plimsoll {

extern const std::string_view kReportPage;
inline constexpr std::string_view kReportData = "{{data}}";  // where the JSON goes

}  // namespace plimsoll
